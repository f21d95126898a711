"""The plugin, each case in an interpreter of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import dual_image_clip

PTH = Path(dual_image_clip.__file__).parents[1] / "dual_image_clip.pth"


def run_python(code: str, *options: str, path: str | None = None) -> subprocess.CompletedProcess:
    environment = dict(os.environ)
    if path is not None:
        environment["PYTHONPATH"] = path
    return subprocess.run(
        [sys.executable, "-W", "ignore", *options, "-c", code],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )


def test_an_interpreter_that_never_imports_anomalib_loads_nothing_heavy():
    result = run_python(
        "import sys; print(sorted({'dual_image_clip.plugin', 'torch', 'anomalib', 'open_clip', 'dataclasses', "
        "'logging', 'importlib.metadata', 'typing', 'collections'} & set(sys.modules)))"
    )
    assert result.stdout.strip() == "['dual_image_clip.plugin']"
    assert result.stderr == ""


def test_importing_the_package_loads_no_torch():
    result = run_python("import sys, dual_image_clip; print('torch' in sys.modules, dual_image_clip.__version__)")
    assert result.stdout.split() == ["False", dual_image_clip.__version__]


@pytest.mark.parametrize(
    "first",
    [
        "import anomalib.models",
        "import anomalib.data",
        "from dual_image_clip import DualImageCLIP",
        "import dual_image_clip.lightning_model",
        "import dual_image_clip.plugin",
        "from anomalib.cli.cli import AnomalibCLI",
    ],
)
def test_names_resolve_whatever_is_imported_first(first):
    code = f"""
{first}
from anomalib.models import get_model, list_models
from anomalib.data import get_datamodule, MVTecAD
import anomalib.data, anomalib.models, dual_image_clip
arguments = dict(backbone="dual-image-clip-demo")
by_path = [{{"class_path": path}} for path in ("DualImageCLIP", "anomalib.models.DualImageCLIP")]
for spec in ("DualImageCLIP", "dual_image_clip", *by_path):
    assert type(get_model(spec, **arguments)) is dual_image_clip.DualImageCLIP, spec
assert anomalib.models.DualImageCLIP is dual_image_clip.DualImageCLIP
assert "dual_image_c_l_i_p" in list_models()
assert issubclass(anomalib.data.MVTec, MVTecAD)
assert type(get_datamodule({{"class_path": "MVTec"}})) is anomalib.data.MVTec
print("fine")
"""
    result = run_python(code)
    assert result.stdout.strip().endswith("fine"), result.stderr


def test_stock_names_stay_what_they_were():
    result = run_python("import anomalib.models, anomalib.data; anomalib.models.Nonsense")
    assert "has no attribute 'Nonsense'" in result.stderr
    result = run_python("import dual_image_clip.plugin, anomalib.data; anomalib.data.Nonsense")
    assert "module 'anomalib.data' has no attribute 'Nonsense'" in result.stderr


def test_anomalib_works_when_this_package_is_broken():
    code = """
import sys
sys.modules["dual_image_clip.method.scoring"] = sys.modules["dual_image_clip.hooks"] = None
import anomalib.models
print(anomalib.models.Padim.__name__, hasattr(anomalib.models, "DualImageCLIP"))
from anomalib.cli.cli import AnomalibCLI
AnomalibCLI(["test", "--model", "Padim", "--model.pre_trained", "false"], run=False)
print("parsed")
"""
    result = run_python(code)
    assert result.stdout.split()[:2] == ["Padim", "False"], result.stderr
    assert result.stdout.split()[-1] == "parsed", result.stderr
    assert "dual-image-clip could not add DualImageCLIP to anomalib" in result.stderr


@pytest.mark.parametrize("plugin", [None, "raise RuntimeError('broken')", "nonsense = ", "install = 1"])
def test_the_pth_line_never_disturbs_an_interpreter(tmp_path, plugin):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / PTH.name).write_text(PTH.read_text())
    if plugin is not None:
        (tmp_path / "site" / "dual_image_clip").mkdir()
        (tmp_path / "site" / "dual_image_clip" / "__init__.py").touch()
        (tmp_path / "site" / "dual_image_clip" / "plugin.py").write_text(plugin)
    code = f"import site; site.addsitedir({str(tmp_path / 'site')!r}); print('alive')"
    result = run_python(code, "-S", path="")
    assert result.stdout.strip() == "alive"
    assert result.stderr == ""


def test_install_twice_keeps_one_finder():
    code = """
import sys
from dual_image_clip import plugin
plugin.install(); plugin.install()
print(sum(type(finder).__module__ == "dual_image_clip.plugin" for finder in sys.meta_path))
"""
    assert run_python(code).stdout.strip() == "1"


def test_installed_late_it_still_registers():
    code = """
import sys
sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__module__ != "dual_image_clip.plugin"]
import anomalib.models
assert not hasattr(anomalib.models, "DualImageCLIP")
from dual_image_clip import plugin
plugin.install()
print(anomalib.models.DualImageCLIP.__name__)
"""
    result = run_python(code)
    assert result.stdout.strip() == "DualImageCLIP", result.stderr
