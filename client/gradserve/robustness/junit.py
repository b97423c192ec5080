"""The figures as JUnit XML, which every CI shows."""

from pathlib import Path
from xml.etree import ElementTree as Tree

from gradserve.robustness.figures import Figures
from gradserve.robustness.words import (
    cautions,
    certificate_facts,
    certified_text,
    meaning,
    ranged,
    unmeasured,
    warnings,
)

SUITE = "gradserve robustness"


def write(path: Path, figures: Figures, model: str, seconds: float) -> None:
    """Write a test case for each threshold, each attack that did not measure all, each picture without an answer."""
    suite = Tree.Element("testsuite", name=SUITE, time=f"{seconds:.3f}")
    properties = Tree.SubElement(suite, "properties")
    for name, value in _properties(figures, model):
        Tree.SubElement(properties, "property", name=name, value=value)
    for each in figures.thresholds:
        case = Tree.SubElement(suite, "testcase", classname=model, name=each.name)
        if each.verdict == "failed":
            Tree.SubElement(case, "failure", message=str(each), type="threshold")
        elif each.verdict == "not_measured":
            Tree.SubElement(case, "error", message=str(each), type="not measured")
    for robustness in [*figures.attacks, *figures.together]:
        if robustness.not_measured:
            name = f"{robustness.attack} {robustness.eps}"
            case = Tree.SubElement(suite, "testcase", classname=f"{model}.attacks", name=name)
            Tree.SubElement(case, "skipped", message=unmeasured(robustness))
    for id, reason in figures.unreadable.items():
        case = Tree.SubElement(suite, "testcase", classname=f"{model}.pictures", name=id)
        Tree.SubElement(case, "skipped", message=f"unreadable: {reason}")
    for what, reason in figures.failed.items():
        case = Tree.SubElement(suite, "testcase", classname=f"{model}.requests", name=what)
        Tree.SubElement(case, "error", message=reason, type="request")
    for attribute, tag in (("failures", "failure"), ("skipped", "skipped"), ("errors", "error")):
        suite.set(attribute, str(len(suite.findall(f"testcase/{tag}"))))
    suite.set("tests", str(len(suite.findall("testcase"))))
    tree = Tree.ElementTree(suite)
    Tree.indent(tree)
    tree.write(path, encoding="utf-8", xml_declaration=True)


def _properties(figures: Figures, model: str) -> list[tuple[str, str]]:
    properties = [
        ("model", model),
        ("head", figures.head),
        ("accuracy", meaning(figures)),
        ("clean accuracy", str(figures.clean)),
    ]
    attacks = [*figures.attacks, *figures.together]
    properties += [(f"robust accuracy, {each.attack} {each.eps}", ranged(each)) for each in attacks]
    properties += [
        (f"robust accuracy, {each.attack} {each.eps}, after {stage.method}", ranged(stage))
        for each in attacks
        for stage in each.stages
    ]
    properties += [(f"caution, {where}", text) for where, text in cautions(figures)]
    properties += [(f"warning, {where}", f"{text} ({count} pictures)") for where, text, count in warnings(figures)]
    properties += [(f"error, {each.kind}", f"{each.mean:.1%}") for each in figures.corruptions]
    if figures.certified:
        properties += [
            (f"certified accuracy, radius {point.radius:g}", certified_text(point))
            for point in figures.certified.points
        ]
        properties.append(("certificates", "; ".join(certificate_facts(figures.certified))))
    return properties + ([("mCE", f"{figures.mce:.1%}")] if figures.mce is not None else [])
