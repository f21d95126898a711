import copy
import logging
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Barrier

import open_clip
import platformdirs
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dual_image_clip.method import PromptEnsemble
from dual_image_clip.weights import cached_text_embeddings
from tests.helpers import TINY, seeded

pytestmark = pytest.mark.open_clip

ENSEMBLE = PromptEnsemble(["a normal nut", "a flawless nut"], ["a damaged nut", "a broken nut"])


class Encoder:
    """Stands for the slow encoding of prompts and counts how often it was needed."""

    def __init__(self, seed: int = 0) -> None:
        self.calls = 0
        self.embeddings = torch.randn(2, 24, generator=seeded(seed))

    def __call__(self) -> Tensor:
        self.calls += 1
        return self.embeddings.clone()


def folder() -> Path:
    return platformdirs.user_cache_path("dual-image-clip")


def files() -> list[Path]:
    return [path for path in folder().rglob("*") if path.is_file()]


@pytest.fixture
def cached_file(tiny_clip: nn.Module) -> Path:
    cached_text_embeddings(tiny_clip, ENSEMBLE, Encoder())
    (file,) = files()
    return file


def assert_cached(clip: nn.Module, ensemble: PromptEnsemble, expected: Tensor) -> None:
    unused = Encoder(seed=99)
    assert torch.equal(cached_text_embeddings(clip, ensemble, unused), expected)
    assert unused.calls == 0


def test_second_call_reads_what_the_first_computed(tiny_clip):
    encoder = Encoder()
    assert torch.equal(cached_text_embeddings(tiny_clip, ENSEMBLE, encoder), encoder.embeddings)
    assert encoder.calls == 1
    assert_cached(tiny_clip, ENSEMBLE, encoder.embeddings)


def test_same_weights_in_another_model_are_recognised(tiny_clip):
    encoder = Encoder()
    cached_text_embeddings(tiny_clip, ENSEMBLE, encoder)
    assert_cached(copy.deepcopy(tiny_clip), ENSEMBLE, encoder.embeddings)


@pytest.mark.parametrize(
    "ensemble",
    [
        PromptEnsemble(["a normal bolt", "a flawless bolt"], ["a damaged bolt", "a broken bolt"]),
        PromptEnsemble(ENSEMBLE.anomalous, ENSEMBLE.normal),
        PromptEnsemble([*ENSEMBLE.normal, ENSEMBLE.anomalous[0]], ENSEMBLE.anomalous[1:]),
        PromptEnsemble(ENSEMBLE.normal[:1], ENSEMBLE.anomalous),
        PromptEnsemble([" ".join(ENSEMBLE.normal)], ENSEMBLE.anomalous),
        PromptEnsemble(["a normal nut", "a flawless"], [" nuta damaged nut", "a broken nut"]),
    ],
    ids=["another class", "states swapped", "a prompt moved", "a prompt less", "prompts joined", "words moved"],
)
def test_other_prompts_are_encoded_anew(tiny_clip, ensemble):
    first, second = Encoder(seed=0), Encoder(seed=1)
    cached_text_embeddings(tiny_clip, ENSEMBLE, first)
    assert torch.equal(cached_text_embeddings(tiny_clip, ensemble, second), second.embeddings)
    assert_cached(tiny_clip, ENSEMBLE, first.embeddings)
    assert_cached(tiny_clip, ensemble, second.embeddings)


def shift(weight: Tensor) -> None:
    with torch.no_grad():
        weight.add_(1e-3)


def other_model(clip: nn.Module) -> nn.Module:
    torch.manual_seed(5)
    return open_clip.create_model(TINY)


def with_shifted(name: str) -> Callable[[nn.Module], nn.Module]:
    def change(clip: nn.Module) -> nn.Module:
        other = copy.deepcopy(clip)
        shift(other.get_parameter(name))
        return other

    return change


def with_another_activation(clip: nn.Module) -> nn.Module:
    other = open_clip.create_model(TINY, force_quick_gelu=True)
    other.load_state_dict(clip.state_dict())
    return other


@pytest.mark.parametrize(
    "change",
    [
        other_model,
        with_shifted("token_embedding.weight"),
        with_shifted("transformer.resblocks.1.mlp.c_fc.weight"),
        with_shifted("text_projection"),
        # ViT-B-16 and ViT-B-16-quickgelu may load the same file and still say different things.
        with_another_activation,
    ],
    ids=["another model", "embedding", "a block", "projection", "another activation"],
)
def test_other_text_towers_encode_anew(tiny_clip, change):
    first, second = Encoder(seed=0), Encoder(seed=1)
    cached_text_embeddings(tiny_clip, ENSEMBLE, first)
    assert torch.equal(cached_text_embeddings(change(tiny_clip), ENSEMBLE, second), second.embeddings)
    assert_cached(tiny_clip, ENSEMBLE, first.embeddings)


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return file.metadata()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-8])


def cut_in_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:20])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def fill_with_noise(path: Path) -> None:
    path.write_bytes(b"not a tensor file" * 20)


def write_for_another(path: Path) -> None:
    save_file(load_file(path), path, metadata=dict.fromkeys(metadata(path), "of somebody else"))


def write_without_metadata(path: Path) -> None:
    save_file(load_file(path), path)


def write_with(change: Callable[[Tensor], Tensor]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        tensors = {name: change(tensor).contiguous() for name, tensor in load_file(path).items()}
        save_file(tensors, path, metadata=metadata(path))

    return damage


def rename_tensors(path: Path) -> None:
    save_file({f"other {name}": tensor for name, tensor in load_file(path).items()}, path, metadata=metadata(path))


@pytest.mark.parametrize(
    "damage",
    [
        truncate,
        cut_in_header,
        empty,
        fill_with_noise,
        write_for_another,
        write_without_metadata,
        write_with(lambda tensor: tensor.masked_fill(torch.arange(24) == 7, float("nan"))),
        write_with(lambda tensor: tensor.masked_fill(torch.arange(24) == 7, float("inf"))),
        write_with(lambda tensor: tensor[:1]),
        rename_tensors,
    ],
    ids=[
        "truncated", "cut in its header", "empty", "noise", "foreign", "no metadata", "NaN", "infinite", "one state",
        "other tensors",
    ],
)  # fmt: skip
def test_damaged_files_are_ignored_and_written_again(tiny_clip, cached_file, damage):
    damage(cached_file)
    encoder = Encoder(seed=1)
    assert torch.equal(cached_text_embeddings(tiny_clip, ENSEMBLE, encoder), encoder.embeddings)
    assert encoder.calls == 1
    assert files() == [cached_file]
    assert_cached(tiny_clip, ENSEMBLE, encoder.embeddings)


def assert_computes_each_time(clip: nn.Module) -> None:
    for seed in range(2):
        encoder = Encoder(seed)
        assert torch.equal(cached_text_embeddings(clip, ENSEMBLE, encoder), encoder.embeddings)
        assert encoder.calls == 1


@pytest.mark.parametrize("part", ["", "dual-image-clip"])
def test_folder_that_cannot_be_made_costs_time_only(tiny_clip, tmp_path, monkeypatch, part):
    blocked = tmp_path / "blocked"
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    (blocked / part).parent.mkdir(exist_ok=True)
    (blocked / part).write_text("a file where a folder is needed")
    assert_computes_each_time(tiny_clip)


def test_folder_in_the_place_of_the_file_costs_time_only(tiny_clip, cached_file):
    cached_file.unlink()
    cached_file.mkdir()
    assert_computes_each_time(tiny_clip)
    assert files() == []


@contextmanager
def full_disk() -> Iterator[None]:
    """Lets every write fail behind the first few bytes of a file."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_full_disk_costs_time_only_and_leaves_nothing(tiny_clip):
    with full_disk():
        assert_computes_each_time(tiny_clip)
    assert files() == []


def test_full_disk_does_not_harm_what_another_process_wrote_meanwhile(tiny_clip):
    encoder = Encoder()
    with ExitStack() as later:

        def overtaken() -> Tensor:
            cached_text_embeddings(tiny_clip, ENSEMBLE, encoder)
            later.enter_context(full_disk())
            return encoder()

        cached_text_embeddings(tiny_clip, ENSEMBLE, overtaken)
    assert len(files()) == 1
    assert_cached(tiny_clip, ENSEMBLE, encoder.embeddings)


def test_failure_of_the_encoder_is_not_hidden_and_leaves_nothing(tiny_clip):
    def fail() -> Tensor:
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        cached_text_embeddings(tiny_clip, ENSEMBLE, fail)
    assert files() == []


def test_two_that_compute_at_once_leave_one_readable_file(tiny_clip):
    encoder = Encoder()

    def overtaken() -> Tensor:
        cached_text_embeddings(tiny_clip, ENSEMBLE, encoder)
        return encoder()

    cached_text_embeddings(tiny_clip, ENSEMBLE, overtaken)
    assert encoder.calls == 2
    assert len(files()) == 1
    assert_cached(tiny_clip, ENSEMBLE, encoder.embeddings)


ROUNDS = 12


def ensemble_of_round(number: int) -> PromptEnsemble:
    return PromptEnsemble([f"normal {number}"], [f"damaged {number}"])


def embeddings_of_round(number: int) -> Tensor:
    # Large, so that a write takes long enough to be seen half done.
    return torch.full((2, 100_000), float(number))


def race(clip: nn.Module, barrier: Barrier) -> bool:
    results = []
    for number in range(ROUNDS):
        barrier.wait(timeout=60)
        embeddings = cached_text_embeddings(clip, ensemble_of_round(number), lambda: embeddings_of_round(number))  # noqa: B023
        results.append(torch.equal(embeddings, embeddings_of_round(number)))
    return all(results)


def race_in_a_process(clip: nn.Module, barrier: Barrier) -> None:
    torch.set_num_threads(1)
    raise SystemExit(0 if race(clip, barrier) else 1)


def assert_every_round_is_cached(clip: nn.Module) -> None:
    for number in range(ROUNDS):
        assert_cached(clip, ensemble_of_round(number), embeddings_of_round(number))
    assert len(files()) == ROUNDS
    assert not list(folder().rglob("*.tmp"))


def test_many_threads_share_the_folder(tiny_clip, caplog):
    caplog.set_level(logging.INFO, "dual_image_clip")
    barrier = Barrier(8)
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda _: race(tiny_clip, barrier), range(8)))
    assert [record for record in caplog.records if record.name.startswith("dual_image_clip")] == []  # nobody failed
    assert_every_round_is_cached(tiny_clip)


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="starting four interpreters is slow")
def test_many_processes_share_the_folder(tiny_clip):
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(4)
    processes = [context.Process(target=race_in_a_process, args=(tiny_clip, barrier)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert_every_round_is_cached(tiny_clip)
