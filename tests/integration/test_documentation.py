"""The documents, taken at their word; only weights and data are the tests' own."""

import functools
import inspect
import logging
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
from anomalib.cli.cli import AnomalibCLI

import dual_image_clip
from dual_image_clip import DualImageCLIP, cli
from dual_image_clip.weights import EMBEDDED
from tests.drawn_data import make_category, make_photos

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = (README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md")))
SMALL = {
    "Procedural": ["--data.num_train", "1", "--data.num_test_normal", "4", "--data.num_test_anomalous", "4"],
    "PHOTOS": [],
}
# Its commands follow from each other; see test_inspection_page.
WALK = ROOT / "docs" / "inspection.md"
MEASURES = {"benchmarks.speed", "benchmarks.checkpoint", "benchmarks.steps"}
OWN_WEIGHTS = ["--model.backbone", EMBEDDED, "--model.pretrained", EMBEDDED]


def blocks(language: str) -> list[str]:
    pattern = rf"^```{language}\n(.*?)^```"
    return [block for page in PAGES if page != WALK for block in re.findall(pattern, page.read_text(), re.S | re.M)]


def commands() -> list[str]:
    lines = [line.partition("  #")[0].strip() for block in blocks("console") for line in block.splitlines()]
    return list(dict.fromkeys(line for line in lines if line))


def links() -> list[tuple[Path, str]]:
    """Links that do not leave the repository, with the page that they stand on."""
    found = [(page, target) for page in PAGES for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text())]
    return [(page, target) for page, target in found if "://" not in target]


def anchors(page: Path) -> list[str]:
    """What the headings of a page are called in links to them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


@pytest.fixture
def clone(workspace, monkeypatch):
    """A folder that has what a clone has, and data where the commands expect it."""
    for name in ("configs", "examples"):
        (workspace / name).symlink_to(ROOT / name)
    for category in ("bottle", "cable", "capsule"):
        make_category(workspace / "datasets" / "MVTecAD" / category)
    make_category(workspace / "datasets" / "visa" / "visa_pytorch" / "pcb1")
    make_photos(workspace / "PHOTOS", normal=8)
    make_photos(workspace / "GOOD", normal=4, defective=0)
    made = make_category(workspace / "made")
    (workspace / "SORTED").mkdir()
    (made / "test" / "good").rename(workspace / "SORTED" / "good")
    (made / "test" / "spot").rename(workspace / "SORTED" / "defective")
    monkeypatch.syspath_prepend(ROOT)
    # The benchmark's command turns this down for its own process.
    own_logger = logging.getLogger("dual_image_clip")
    level = own_logger.level
    yield workspace
    own_logger.setLevel(level)


def test_the_readme_is_short():
    assert len(README.read_text().split()) <= 1000


def test_links_lead_somewhere():
    assert len(links()) > 20
    for page, link in links():
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link}"


def test_every_page_can_be_reached_from_the_readme():
    linked = {(page.parent / link.partition("#")[0]).resolve() for page, link in links() if page == README}
    assert set(PAGES) - {README} <= linked


def test_the_readme_lists_every_parameter_with_its_default():
    components = {"pre_processor", "post_processor", "evaluator", "visualizer"}
    signature = inspect.signature(DualImageCLIP).parameters
    listed = {}
    for names, defaults in re.findall(r"^\| (`\w.*?) \| (.*?) \|", README.read_text(), re.M):
        listed |= dict(zip(re.findall(r"`(\w+)`", names), re.findall(r"`(.+?)`", defaults), strict=True))
    assert listed == {name: str(each.default) for name, each in signature.items() if name not in components}


def test_there_are_commands():
    assert len(commands()) > 15
    assert 'dual-image-clip predict PHOTOS --class-name "metal nut"' in commands()


@pytest.mark.parametrize("block", blocks("python"))
def test_python(block, clone, monkeypatch):
    small = functools.partial(DualImageCLIP, backbone=EMBEDDED)
    monkeypatch.setattr(dual_image_clip, "DualImageCLIP", small, raising=False)
    program = clone / "program.py"
    program.write_text(block)
    left = runpy.run_path(str(program))
    assert {"model", "detector", "predictions"} & left.keys()


@pytest.mark.parametrize("command", commands())
def test_command(command, clone, monkeypatch):
    program, *arguments = shlex.split(command, comments=True)
    run = {
        "anomalib": run_anomalib,
        "dual-image-clip": run_own_command,
        "make": check_target,
        "pip": check_extra,
        "python": run_python,
    }[program]
    run(arguments, clone, monkeypatch)


def run_anomalib(arguments, clone, monkeypatch):
    data = arguments[arguments.index("--data") + 1] if "--data" in arguments else None
    where = ["--data.root", "datasets/visa"] if "configs/visa.yaml" in arguments else []
    AnomalibCLI([*arguments, *OWN_WEIGHTS, *where, *SMALL.get(data, [])])
    assert list((clone / "results" / "DualImageCLIP").rglob("images/**/*.png"))
    if arguments[0] == "predict":
        assert list((clone / "results" / "DualImageCLIP").rglob("report.html"))


def run_own_command(arguments, clone, monkeypatch):
    if arguments[0] == "serve":
        # The service itself is driven in tests/service.
        with pytest.raises(SystemExit) as ended:
            cli.main(["serve", "--help"])
        assert ended.value.code == 0
        return
    weights = [] if "--backbone" in arguments else ["--backbone", EMBEDDED]
    assert cli.main([*arguments, *weights]) in {None, 0}
    if arguments[0] == "watch":
        return
    assert list(clone.rglob("predictions.csv"))
    assert list(clone.rglob("report.html"))


def run_python(arguments, clone, monkeypatch):
    if arguments[1] == "benchmarks.paper":
        run_benchmark(arguments[2:], clone, monkeypatch)
    else:
        # Minutes long: what is tested is that they exist and take what is typed.
        assert arguments[1] in MEASURES
        monkeypatch.setattr(sys, "argv", [*arguments[1:], "--help"])
        with pytest.raises(SystemExit) as ended:
            runpy.run_module(arguments[1], run_name="__main__")
        assert ended.value.code == 0


def run_benchmark(arguments, clone, monkeypatch):
    small = [f"backbone={EMBEDDED}", f"pretrained={EMBEDDED}", "output=report", "examples=0"]
    given = " ".join(arguments)
    if "seeds=" not in given:
        small.append("seeds=[0]")
    if "benchmarks/demo" in given:
        counts = "num_train: 8, num_test_normal: 5, num_test_anomalous: 5"
        small += ["data.categories=[gear]", f"data.arguments={{{counts}}}"]
    elif "data.categories=" not in given and "data.name=Folder" not in given:
        small.append(f"data.categories=[{'pcb1' if 'Visa' in given else 'bottle'}]")
    monkeypatch.setattr(sys, "argv", ["benchmarks.paper", *arguments, *small])
    runpy.run_module("benchmarks.paper", run_name="__main__")
    assert "No job failed" in (clone / "report" / "report.md").read_text()


def check_target(arguments, clone, monkeypatch):
    assert f"\n{arguments[0]}: " in (ROOT / "Makefile").read_text()


def check_extra(arguments, clone, monkeypatch):
    table = (ROOT / "pyproject.toml").read_text().partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    extras = re.findall(r"^(\w+) = ", table, re.M)
    (package,) = arguments[1:]
    named = re.fullmatch(r"\.(?:\[(.*)\])?", package)
    assert named
    assert set(filter(None, (named[1] or "").split(","))) <= set(extras)
