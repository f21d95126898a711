import sys
import tempfile
from pathlib import Path

import pytest

from benchmarks.paper.category_job import Examples, Wanted
from benchmarks.paper.engines import ENGINES, Job, run_locally, run_on_ray
from benchmarks.paper.plan import Plan
from benchmarks.paper.plan_file import read_plan
from benchmarks.paper.results import Row, Spent

ROOT = Path(__file__).parents[3]
FRAGILE = """
import os
from dual_image_clip.procedural import Procedural

class Fragile(Procedural):
    \"\"\"Data whose category "zipper" takes the whole process with it.\"\"\"

    def prepare_data(self):
        if self.category == "zipper":
            os._exit(1)
        super().prepare_data()
"""


@pytest.fixture(scope="module")
def fragile(tmp_path_factory):
    """Folder of a module with a datamodule that kills."""
    folder = tmp_path_factory.mktemp("modules")
    (folder / "fragile_data.py").write_text(FRAGILE)
    return folder


@pytest.fixture(scope="module")
def cluster(fragile):
    ray = pytest.importorskip("ray", reason="engine=ray needs Ray, which is not installed")
    # Ray's sockets need a short path; and its workers would be so nice that they starve beside anything else.
    with tempfile.TemporaryDirectory(prefix="ray-") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")
        ray.init(
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            _temp_dir=folder,
            runtime_env={"env_vars": {"PYTHONPATH": f"{ROOT}:{fragile}"}},
        )
        yield ray
        ray.shutdown()


@pytest.fixture
def plan(study_file) -> Plan:
    return read_plan(study_file, ["seeds=[0]", "examples=2"])


def jobs(plan, with_examples=True):
    wanted = [Wanted(setting, seed) for seed in plan.seeds for setting in plan.settings.values()]
    return [Job(category, wanted, with_examples) for category in plan.data.categories]


def rows(outcomes):
    return {outcome.key: outcome for _, outcome in outcomes if isinstance(outcome, Row)}


def test_local_jobs_run_one_after_the_other(plan, tiny):
    outcomes = list(run_locally(plan, jobs(plan), tiny))
    kinds = [Row] * 4 + [Spent, Examples]
    assert [(job.category, type(outcome)) for job, outcome in outcomes] == [
        (category, kind) for category in ("gear", "zipper") for kind in kinds
    ]


def test_a_local_job_that_breaks_down_is_handed_on_and_others_finish(plan, tiny, monkeypatch):
    def broken(plan, category, wanted, backbone, with_examples):
        yield from ()
        if category == "gear":
            raise MemoryError("no room")
        yield Spent(1.0, 2.0)

    monkeypatch.setattr("benchmarks.paper.engines.run_job", broken)
    (_, error), (job, spent) = run_locally(plan, jobs(plan), tiny)
    assert isinstance(error, MemoryError)
    assert (job.category, spent) == ("zipper", Spent(1.0, 2.0))


def test_engines_have_the_names_of_the_plan():
    assert {"local": run_locally, "ray": run_on_ray} == ENGINES


def test_without_ray_it_is_said_how_to_get_it(plan, tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'dual-image-clip\[ray\]'"):
        next(run_on_ray(plan, jobs(plan), tiny))


def test_rows_of_ray_are_those_of_a_local_run(cluster, plan, tiny, monkeypatch):
    # Relative folders are those of the one who starts the run.
    monkeypatch.chdir(Path(plan.data.root).parent)
    plan.data.root = Path(plan.data.root).name
    on_ray = list(run_on_ray(plan, jobs(plan), tiny))
    locally = rows(run_locally(plan, jobs(plan, with_examples=False), tiny))
    assert rows(on_ray).keys() == locally.keys()
    for job, row in rows(on_ray).items():
        assert row.error is None
        assert row.metrics == pytest.approx(locally[job].metrics, abs=1e-4)
    for kind in (Spent, Examples):
        assert sorted(job.category for job, outcome in on_ray if isinstance(outcome, kind)) == ["gear", "zipper"]


def test_a_job_that_takes_its_process_with_it_does_not_stop_the_others(cluster, plan, tiny):
    plan.data.name = "fragile_data.Fragile"
    outcomes = list(run_on_ray(plan, jobs(plan, with_examples=False), tiny))
    assert {row.category for row in rows(outcomes).values()} == {"gear"}
    assert len(rows(outcomes)) == 4
    (error,) = (outcome for job, outcome in outcomes if job.category == "zipper")
    assert isinstance(error, cluster.exceptions.RayError)


def test_an_error_on_ray_is_the_one_that_was_raised(cluster, plan, tiny):
    plan.data.root = "/proc/nowhere"
    (outcome,) = (outcome for _, outcome in run_on_ray(plan, [Job("gear", [], True)], tiny))
    assert isinstance(outcome, OSError)
    assert "Traceback" not in str(outcome)


@pytest.mark.parametrize("change", ["cpus=64", "gpus=8"])
def test_a_job_that_asks_for_more_than_there_is_is_refused(change, cluster, study_file, tiny):
    plan = read_plan(study_file, [change])
    with pytest.raises(ValueError, match=change.replace("=", " is ")):
        next(run_on_ray(plan, jobs(plan), tiny))
