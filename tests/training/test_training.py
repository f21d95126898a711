"""The whole training, small: every stage, stopped and gone on with, to a checkpoint that the package loads."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dual_image_clip.method import encode_ensemble, prompt_ensemble
from dual_image_clip.weights import load_backbone
from tests.training.small import small_arguments, small_recipe
from training import __main__ as command
from training.adapters import draw_adapters
from training.architecture import build
from training.batches import draw_batch
from training.drawn_set import draw_training_set, load_training_set
from training.image_tower import ImageTraining, Step, learning_rate, make_optimizers, moment_of
from training.losses import label_patches
from training.photograph_training import PhotographTraining
from training.recipe import Recipe
from training.text_tower import PromptBook, design_targets, embed_words, fit_text_tower

pytestmark = pytest.mark.open_clip


def run(recipe: Recipe) -> dict[str, torch.Tensor]:
    folder = Path(recipe.runs) / recipe.name
    folder.mkdir(parents=True, exist_ok=True)
    command.train(recipe, folder)
    return weights_of(recipe)


def weights_of(recipe: Recipe) -> dict[str, torch.Tensor]:
    return load_backbone(recipe.name, exported_of(recipe)).clip.state_dict()


def exported_of(recipe: Recipe) -> str:
    return str(Path(recipe.runs) / recipe.name / f"{recipe.name}.safetensors")


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("done")
    command_line = [sys.executable, "-m", "training", *small_arguments(folder)]
    subprocess.run(command_line, check=True, cwd=Path(__file__).parents[2])
    recipe = small_recipe(folder)
    open_clip.add_model_config(Path(recipe.runs) / recipe.name)
    return recipe


@pytest.fixture(scope="module")
def trained(done):
    return weights_of(done)


def test_exported_checkpoint_is_an_open_clip_model(done, trained):
    backbone = load_backbone(done.name, exported_of(done))
    assert backbone.temperature == pytest.approx(done.temperature, rel=1e-3)
    assert backbone.image_size == (240, 240)
    assert all(weight.isfinite().all() for weight in trained.values())


def test_images_change_the_image_tower_and_nothing_of_the_text(done, trained):
    before = torch.load(Path(done.runs) / done.name / "text.pt", weights_only=True)
    changed = {name for name in trained if not torch.equal(trained[name], before[name].half().float())}
    assert "visual.transformer.resblocks.0.attn.in_proj_weight" in changed
    assert {name for name in changed if not name.startswith("visual.")} <= {"logit_scale"}


def test_stopped_training_ends_with_the_same_weights(recipe, trained, monkeypatch):
    save = ImageTraining._save

    def save_and_stop(self):
        save(self)
        if self.step == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(ImageTraining, "_save", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        run(recipe)
    monkeypatch.setattr(ImageTraining, "_save", save)
    torch.manual_seed(123)  # the state of the process must not matter
    again = run(recipe)
    for name, weight in trained.items():
        torch.testing.assert_close(again[name], weight, rtol=0, atol=0, msg=name)


def test_another_seed_is_another_model(recipe, trained):
    recipe.seed = 1
    assert not torch.equal(run(recipe)["visual.proj"], trained["visual.proj"])


def test_run_begun_with_another_recipe_is_refused(recipe, tmp_path):
    command._keep_recipe(recipe, tmp_path / "recipe.yaml")
    command._keep_recipe(recipe, tmp_path / "recipe.yaml")
    recipe.seed = 7
    with pytest.raises(SystemExit, match="begun with other settings"):
        command._keep_recipe(recipe, tmp_path / "recipe.yaml")
    assert OmegaConf.load(tmp_path / "recipe.yaml").seed == 0


def test_recipe_takes_overrides_and_refuses_what_it_does_not_know():
    recipe = command.read_recipe(["images.warm_up=3", "images.rounds=[7]", "loss.visual=0.5"])
    assert (recipe.images.warm_up, recipe.images.rounds, recipe.loss.visual) == (3, [7], 0.5)
    for wrong in ("images.stepz=3", "images.warm_up=soon"):
        with pytest.raises(OmegaConfBaseException):
            command.read_recipe([wrong])


@pytest.mark.parametrize(("families", "named"), [("nut,gear", "gear"), ("nut,nutt", "nutt"), ("", "none")])
def test_recipe_refuses_families_that_are_held_out_or_unknown(families, named):
    with pytest.raises(ValueError, match=f"data.families.*got {named}"):
        command.read_recipe([f"data.families=[{families}]"])


def test_rounds_follow_each_other():
    moments = [tuple(moment_of(step, [3, 2])) for step in range(5)]
    assert moments == [(0, 0, 3), (0, 1, 3), (0, 2, 3), (1, 0, 2), (1, 1, 2)]


def test_fitted_text_tells_states_apart_even_of_unknown_words(recipe, tmp_path):
    recipe.text.steps, recipe.text.batch_size = 150, 32
    recipe.tower.embed_dim = 64
    clip = build(recipe, tmp_path)
    book = PromptBook(recipe.name, recipe.data.families)
    fit_text_tower(clip, book, recipe)
    tokenizer = open_clip.get_tokenizer(recipe.name)
    axes = {}
    for word in ("nut", "weave", "object", "flux capacitor"):
        normal, anomalous = encode_ensemble(clip, tokenizer, prompt_ensemble(word))
        axes[word] = anomalous - normal
        assert axes[word].norm() > 0.6
    for axis in axes.values():
        assert F.cosine_similarity(axis, axes["object"], dim=0) > 0.8
    unknown = tokenizer(["capacitor"])[0, 1]
    assert not clip.token_embedding.weight[unknown].any()
    assert clip.token_embedding.weight[tokenizer(["nut"])[0, 1]].any()
    assert clip.token_embedding.num_embeddings == 49408


def test_targets_differ_along_one_axis_and_lie_in_reach_of_the_text_tower():
    words = [f"word {number}" for number in range(40)] + ["object"]
    targets = design_targets(words, 32, 12, 0.6, torch.Generator().manual_seed(0))
    both = torch.stack([targets[word] for word in words])
    torch.testing.assert_close(both.norm(dim=2), torch.ones(41, 2))
    axes = F.normalize(both[:, 1] - both[:, 0], dim=1)
    torch.testing.assert_close(axes @ axes[0], torch.ones(41))
    assert torch.linalg.matrix_rank(both.flatten(0, 1), atol=1e-4) <= 12
    classes = F.normalize(both.mean(dim=1), dim=1)
    assert (classes @ classes.T).triu(1).max() < 0.999


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_every_weight_of_the_image_tower_has_one_optimizer(recipe, tmp_path, name):
    recipe.images.optimizer = name
    clip = build(recipe, tmp_path)
    heads = torch.nn.Linear(2, 1)
    optimizers = make_optimizers(clip, heads, recipe)
    assert [type(each).__name__ for each in optimizers] == (["AdamW"] if name == "adamw" else ["AdamW", "Muon"])
    trained = [id(p) for each in optimizers for group in each.param_groups for p in group["params"]]
    wanted = {id(p) for p in (*clip.visual.parameters(), *heads.parameters(), clip.logit_scale)}
    assert set(trained) == wanted
    assert len(trained) == len(wanted)


def test_learning_rate_rises_then_falls():
    rates = [learning_rate(step, 1000, 50) for step in range(1000)]
    assert rates[0] < 0.05
    assert max(rates) == pytest.approx(1, abs=0.01)
    assert rates.index(max(rates)) in range(45, 55)
    assert rates[-1] == pytest.approx(0.01, abs=0.002)


def test_adapters_are_fitted_late_and_only_where_a_product_has_a_pseudo_anomaly(recipe, tmp_path):
    draw_training_set(Path(recipe.data_folder), recipe.data)
    data = load_training_set(Path(recipe.data_folder), recipe.data)
    training = ImageTraining(build(recipe, tmp_path), {}, data, recipe, tmp_path / "images.pt")
    batch = draw_batch(data, 3, 160, np.random.default_rng(0))
    batch.copies[1] = True
    tokens, axis = F.normalize(torch.randn(12, 100, 32), dim=2), torch.randn(12, 32)
    labels = label_patches(torch.zeros(12, 100).index_fill(1, torch.arange(5), 0.5))

    def start_of(image: int, step: int) -> bool:
        training.step = step
        generator = torch.Generator().manual_seed(0)
        adapters = training._adapters(batch, tokens, labels, torch.rand(12, 100), axis, generator)
        start = draw_adapters(12, 32, torch.Generator().manual_seed(0))
        return torch.equal(adapters.weight[image], start.weight[image])

    assert [start_of(image, recipe.loss.fitted_from - 1) for image in (0, 4, 7, 8)] == [True] * 4
    assert [start_of(image, recipe.loss.fitted_from) for image in (0, 4, 7, 8)] == [True, False, False, True]


def test_last_round_begins_with_the_weights_it_is_given(recipe, trained, done):
    recipe.start, recipe.photographs.steps = exported_of(done), 0
    again = run(recipe)
    for name, weight in trained.items():
        torch.testing.assert_close(again[name], weight, rtol=0, atol=0, msg=name)
    assert not (Path(recipe.runs) / recipe.name / "images.pt").exists()


def test_photographs_change_the_image_tower_by_the_share_that_is_not_kept(recipe, trained, done):
    recipe.start = exported_of(done)
    changes = []
    for share in (0.0, 0.5, 1.0):
        recipe.photographs.kept_share = share
        recipe.name = f"{done.name}-{share}"
        after = run(recipe)
        assert all(torch.equal(after[name], trained[name]) for name in trained if not name.startswith("visual."))
        changes.append(after["visual.proj"] - trained["visual.proj"])
    assert changes[0].abs().max() > 1e-3
    torch.testing.assert_close(changes[1], changes[0] / 2, atol=3e-4, rtol=0)
    assert not changes[2].any()


@pytest.mark.parametrize("name", ["features", "relations", "drawn_relations", "distances", "text"])
def test_every_loss_of_photographs_counts_by_its_weight(recipe, done, tmp_path, name):
    data = load_training_set(Path(done.data_folder), done.data)
    clip = build(recipe, tmp_path)
    texts = embed_words(clip, PromptBook(recipe.name, recipe.data.families), 3, 0)

    training = PhotographTraining(clip, texts, data, recipe, tmp_path / "photographs.pt")

    def first_step(weight: float) -> Step:
        setattr(recipe.photographs, name, weight)
        return training._losses(*training._draw(moment_of(0, [2])))

    without, with_it = first_step(0.0), first_step(3.0)
    assert with_it.losses[name] > 0
    assert float((with_it.loss - without.loss).detach()) == pytest.approx(3 * with_it.losses[name], rel=1e-3)
