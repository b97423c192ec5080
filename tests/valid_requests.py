"""A request with nothing wrong for every RPC of GradientService, and for GetModel."""

from typing import Any

from serving import methods, picture

from gradserve.v1 import (
    attack_pb2,
    certify_pb2,
    concepts_pb2,
    dense_pb2,
    differentiate_pb2,
    exemplars_pb2,
    explain_pb2,
    influence_pb2,
    inspect_pb2,
    maximize_pb2,
    models_pb2,
    predict_pb2,
    project_pb2,
    stylize_pb2,
)
from gradserve.v1 import common_pb2 as pb
from gradserve_server.api.inference.v2 import inference_pb2

# Values of what takes long, by the field's name.
SMALL = {"steps": 2, "samples": 2, "queries": 20, "generations": 2, "population": 4, "places": 2, "points": 2}


def quick(message: Any) -> Any:
    """The message with few steps, so that what takes long takes none of the test's time."""
    segments = {"samples": 12, "segments": 4} if "segments" in message.DESCRIPTOR.fields_by_name else {}
    for name, value in {**SMALL, **segments}.items():
        if name in message.DESCRIPTOR.fields_by_name:
            setattr(message, name, value)
    return message


def several(image: pb.Image, first: int) -> list[pb.Image]:
    """Three pictures that differ, of the size of one that is a tensor of UINT8, or three of another size."""
    height, width = image.tensor.shape[:2] or (32, 32)
    return [picture(first + i, height, width) for i in range(3)]


def valid_requests(model: str, image: pb.Image) -> dict[str, Any]:
    """By the names of the RPCs, which all name a model."""
    goal = maximize_pb2.Goal(summands=[{"target": {"class_index": 0}}])
    maximize = maximize_pb2.MaximizeRequest(model=model, goals=[goal], settings={"steps": 2})
    stylize = stylize_pb2.StylizeRequest(model=model, content=image, settings={"steps": 2})
    explain = explain_pb2.ExplainRequest(model=model, image=image, methods=methods(gradient={}))
    return {
        "Predict": predict_pb2.PredictRequest(model=model, image=image),
        "Explain": explain,
        "StreamExplain": explain,
        "Attack": attack_pb2.AttackRequest(model=model, image=image, method={"fgsm": {}}),
        "Certify": certify_pb2.CertifyRequest(model=model, image=image, selection_samples=2, samples=2),
        "Maximize": maximize,
        "StreamMaximize": maximize,
        "Stylize": stylize,
        "StreamStylize": stylize,
        "Influence": influence_pb2.InfluenceRequest(model=model, image=image),
        "Suspects": influence_pb2.SuspectsRequest(model=model),
        "Embed": influence_pb2.EmbedRequest(model=model, image=image),
        "Differentiate": differentiate_pb2.DifferentiateRequest(model=model, images=[image], preprocess=1),
        "Dense": dense_pb2.DenseRequest(model=model, image=image, size={"longer": 64}),
        "Inspect": inspect_pb2.InspectRequest(model=model, table={"images": [image]}),
        "Concepts": concepts_pb2.ConceptsRequest(
            model=model, concept_images=several(image, 0), negative_images=several(image, 3), random_directions=20
        ),
        "Exemplars": exemplars_pb2.ExemplarsRequest(model=model),
        "Project": project_pb2.ProjectRequest(model=model, images=[image]),
        "GetModel": models_pb2.GetModelRequest(name=model),
    }


def valid_inference(model: str, image: pb.Image) -> inference_pb2.ModelInferRequest:
    """One of the Open Inference Protocol, about a picture that is a tensor of UINT8."""
    rows = inference_pb2.ModelInferRequest.InferInputTensor(
        name="image", datatype="UINT8", shape=[1, *image.tensor.shape]
    )
    parameters = {"explain": {"string_param": "gradient"}, "preprocess": {"string_param": "whole_image"}}
    return inference_pb2.ModelInferRequest(
        model_name=model, inputs=[rows], raw_input_contents=[image.tensor.data], parameters=parameters
    )
