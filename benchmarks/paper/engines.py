"""Where jobs run: one after the other in this process, or on a Ray cluster."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from benchmarks.paper.category_job import JobResult, Wanted, run_job
from benchmarks.paper.plan import Plan
from dual_image_clip.weights import Backbone


class Job(NamedTuple):
    """What is wanted of one category.

    Attributes:
        category: The category.
        wanted: The rows.
        with_examples: Whether to draw heatmaps, too.
    """

    category: str
    wanted: list[Wanted]
    with_examples: bool


Engine: TypeAlias = Callable[[Plan, list[Job], Backbone], Iterator[tuple[Job, JobResult | Exception]]]
"""Runs jobs; yields what comes of each as soon as it is there, and an exception where a whole job broke down."""


def run_locally(plan: Plan, jobs: list[Job], backbone: Backbone) -> Iterator[tuple[Job, JobResult | Exception]]:
    """Runs jobs one after the other in this process, which has all cores and the first GPU to itself."""
    for job in jobs:
        try:
            for result in run_job(plan, job.category, job.wanted, backbone, job.with_examples):
                yield job, result
        except Exception as error:
            yield job, error


def run_on_ray(plan: Plan, jobs: list[Job], backbone: Backbone) -> Iterator[tuple[Job, JobResult | Exception]]:
    """Runs jobs on a Ray cluster, or on one that is started on this machine.

    A job asks for ``plan.cpus`` and ``plan.gpus``; the weights go to the cluster's object store once.

    Raises:
        ModuleNotFoundError: Ray is not installed.
        ValueError: A job asks for more than the cluster has.
    """
    try:
        import ray
    except ModuleNotFoundError:
        msg = "engine=ray needs Ray: pip install 'dual-image-clip[ray]'"
        raise ModuleNotFoundError(msg) from None
    started_here = not ray.is_initialized()
    if started_here:
        ray.init(address=plan.ray_address, include_dashboard=False, log_to_driver=False)
    try:
        _require_room(plan, ray.cluster_resources())
        yield from _run_on_ray(ray, plan, jobs, ray.put(backbone))
    finally:
        if started_here:
            ray.shutdown()


def _require_room(plan: Plan, resources: dict[str, float]) -> None:
    """Ray itself would wait forever."""
    for name, asked, there in (
        ("cpus", plan.cpus, resources.get("CPU", 0)),
        ("gpus", plan.gpus, resources.get("GPU", 0)),
    ):
        if asked > there:
            msg = f"{name} is {asked}, but the Ray cluster has {there:g}"
            raise ValueError(msg)


def _run_on_ray(ray: Any, plan: Plan, jobs: list[Job], weights: Any) -> Iterator[tuple[Job, JobResult | Exception]]:
    remote = ray.remote(num_cpus=plan.cpus, num_gpus=plan.gpus, num_returns="streaming", max_retries=0)(_run_remotely)
    running = {remote.remote(plan, job, weights, Path.cwd()): job for job in jobs}
    while running:
        ready, _ = ray.wait(list(running), num_returns=1)
        stream = ready[0]
        job = running[stream]
        try:
            yield job, ray.get(next(stream))
        except StopIteration:
            del running[stream]
        except ray.exceptions.RayError as error:
            del running[stream]
            # Of what was raised in a job, Ray's own error holds the whole traceback.
            yield job, getattr(error, "cause", None) or error


def _run_remotely(plan: Plan, job: Job, backbone: Backbone, folder: Path) -> Iterator[JobResult]:
    import torch

    # Relative paths are those of the process that started the run; on another machine it may not be there.
    if folder.is_dir():
        os.chdir(folder)
    torch.set_num_threads(max(1, int(plan.cpus)))
    yield from run_job(plan, job.category, job.wanted, backbone, job.with_examples)


ENGINES: dict[str, Engine] = {"local": run_locally, "ray": run_on_ray}
