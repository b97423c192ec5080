"""A load of Predict for locust, to set beside `gradserve bench --rate`: each user sends about one request a second.

docs/performance.md says how to run it. GRADSERVE_IMAGE is the picture that is sent, GRADSERVE_MODEL the model.
"""

import os
import random
import time

import grpc
import grpc.experimental.gevent
from locust import User, task

from gradserve.messages.predict import predict_request
from gradserve.v1 import service_pb2_grpc

DEADLINE = 2.0  # Seconds that a request may take.

grpc.experimental.gevent.init_gevent()


class PredictUser(User):
    """Sends the same request again and again over a connection of its own."""

    def wait_time(self) -> float:
        """Seconds until the next request, one on average; users at a fixed pace would stay in step after a stall."""
        return random.expovariate(1.0)

    def on_start(self) -> None:
        self.channel = grpc.insecure_channel(self.host, [("grpc.use_local_subchannel_pool", 1)])
        self.stub = service_pb2_grpc.GradientServiceStub(self.channel)
        self.request = predict_request(os.environ["GRADSERVE_IMAGE"], model=os.environ.get("GRADSERVE_MODEL", ""))
        time.sleep(self.wait_time())

    def on_stop(self) -> None:
        self.channel.close()

    @task
    def predict(self) -> None:
        begin, failure, size = time.perf_counter(), None, 0
        try:
            size = self.stub.Predict(self.request, timeout=DEADLINE).ByteSize()
        except grpc.RpcError as error:
            failure = error
        self.environment.events.request.fire(
            request_type="grpc",
            name="Predict",
            response_time=1000 * (time.perf_counter() - begin),
            response_length=size,
            exception=failure,
            context={},
        )
