import copy
import re

import open_clip
import pytest
import torch
from torch import Tensor, nn

from dual_image_clip.method import PromptEnsemble, encode_ensemble, encode_prompts, prompt_ensemble
from dual_image_clip.method.prompts import TEMPLATES
from tests.helpers import TINY, assert_same

pytestmark = pytest.mark.open_clip

TEXTURES = ("carpet", "grid", "leather", "tile", "wood")

# The paper's supplement, section 2, with its own marks: [d] is the domain, [s] the state, [c] the class.
SUPPLEMENT_TEMPLATES = """
a [d] cropped photo of the [s]
a [d] cropped photo of a [s]
a [d] close-up photo of a [s]
a [d] close-up photo of the [s]
a bright [d] photo of a [s]
a bright [d] photo of the [s]
a dark [d] photo of the [s]
a dark [d] photo of a [s]
a jpeg corrupted [d] photo of a [s]
a jpeg corrupted [d] photo of the [s]
a blurry [d] photo of the [s]
a blurry [d] photo of a [s]
a [d] photo of a [s]
a [d] photo of the [s]
a [d] photo of a small [s]
a [d] photo of the small [s]
a [d] photo of a large [s]
a [d] photo of the large [s]
a [d] photo of the [s] for visual inspection
a [d] photo of a [s] for visual inspection
a [d] photo of the [s] for anomaly detection
a [d] photo of a [s] for anomaly detection
""".strip().splitlines()
SUPPLEMENT_STATES = {
    "normal": "normal [c], unblemished [c], flawless [c], perfect [c], "
    "[c] without flaw, [c] without damage, [c] without defect",
    "anomalous": "damaged [c], abnormal [c], imperfect [c], blemished [c], [c] with flaw, [c] with damage, "
    "[c] with defect",
}


# What is written


@pytest.mark.parametrize("template", SUPPLEMENT_TEMPLATES)
def test_templates_of_the_supplement(template):
    assert template.replace("[d]", "{domain}").replace("[s]", "{state}") in TEMPLATES


def test_no_template_beside_those_of_the_supplement():
    assert len(TEMPLATES) == len(SUPPLEMENT_TEMPLATES) == 22


@pytest.mark.parametrize("class_name", ["bottle", "metal nut", "pcb", "object", "chewing gum", "wooden box"])
def test_objects_have_308_prompts_a_state(class_name):
    ensemble = prompt_ensemble(class_name)
    assert len(ensemble.normal) == len(ensemble.anomalous) == 308


@pytest.mark.parametrize("class_name", [*TEXTURES, " carpet "])
def test_textures_have_462_prompts_a_state(class_name):
    ensemble = prompt_ensemble(class_name)
    assert len(ensemble.normal) == len(ensemble.anomalous) == 462


@pytest.mark.parametrize("class_name", ["Carpet", "WOOD"])
def test_textures_are_textures_in_capitals_too(class_name):
    assert len(prompt_ensemble(class_name).normal) == 462


@pytest.mark.parametrize("state", ["normal", "anomalous"])
@pytest.mark.parametrize(
    ("class_name", "domains"),
    [("metal nut", ["industrial", "manufacturing"]), ("leather", ["industrial", "textural", "surface"])],
)
def test_prompts_are_those_of_the_supplement(state, class_name, domains):
    expected = {
        re.sub(r"\ba (?=[aeiou])", "an ", template.replace("[d]", domain).replace("[s]", words))
        for template in SUPPLEMENT_TEMPLATES
        for domain in domains
        for words in SUPPLEMENT_STATES[state].replace("[c]", class_name).split(", ")
    }
    written = getattr(prompt_ensemble(class_name), state)
    assert set(written) == expected
    assert len(written) == len(expected)  # none twice


@pytest.mark.parametrize(
    ("class_name", "state", "prompt"),
    [
        ("metal nut", "normal", "an industrial cropped photo of the normal metal nut"),
        ("metal nut", "normal", "a manufacturing photo of an unblemished metal nut"),
        ("metal nut", "normal", "a bright industrial photo of a flawless metal nut"),
        ("metal nut", "normal", "a jpeg corrupted manufacturing photo of the metal nut without defect"),
        ("metal nut", "anomalous", "an industrial photo of an abnormal metal nut"),
        ("metal nut", "anomalous", "an industrial photo of the imperfect metal nut for anomaly detection"),
        ("metal nut", "anomalous", "a dark manufacturing photo of an imperfect metal nut"),
        ("metal nut", "anomalous", "a blurry industrial photo of a metal nut with damage"),
        ("carpet", "normal", "a textural close-up photo of a perfect carpet"),
        ("carpet", "anomalous", "a surface photo of a small blemished carpet"),
        ("apple", "anomalous", "an industrial photo of an apple with flaw for visual inspection"),
        ("  metal \t nut ", "normal", "a manufacturing photo of a large normal metal nut"),
    ],
)
def test_prompts_word_by_word(class_name, state, prompt):
    assert prompt in getattr(prompt_ensemble(class_name), state)


@pytest.mark.parametrize("class_name", ["metal nut", "wood", "apple"])
def test_prompts_are_unique_and_have_right_articles(class_name):
    normal, anomalous = prompt_ensemble(class_name)
    every = normal + anomalous
    assert len(set(every)) == len(every)
    assert not [prompt for prompt in every if re.search(r"\ba [aeiou]|\ban [^aeiou]", prompt)]
    assert not [prompt for prompt in every if re.search(r"[\[\]{}]|  ", prompt)]
    assert all(class_name in prompt for prompt in every)


@pytest.mark.parametrize("class_name", ["", "   ", "001", "_-_", "42 %"])
def test_class_name_without_letters_is_refused(class_name):
    with pytest.raises(ValueError, match="has no letters") as caught:
        prompt_ensemble(class_name)
    assert f"class_name {class_name!r}" in str(caught.value)


# What it is encoded to


def lively(clip: nn.Module) -> nn.Module:
    """Gives the text tower biases and sizes that matter: open_clip starts many of them at nothing."""
    torch.manual_seed(3)
    with torch.no_grad():
        for name, weight in clip.named_parameters():
            if not name.startswith("visual.") and weight.ndim:
                weight.add_(0.1 * torch.randn_like(weight))
    return clip.eval()


def text_variant(kind: type[nn.Module] = open_clip.CLIP, quick_gelu: bool = False, **text) -> nn.Module:
    config = copy.deepcopy(open_clip.get_model_config(TINY))
    config["text_cfg"].update(text)
    return lively(kind(**config, quick_gelu=quick_gelu))


@pytest.fixture
def clip(tiny_clip: nn.Module) -> nn.Module:
    return lively(tiny_clip)


@pytest.fixture
def tokenizer():
    return open_clip.get_tokenizer(TINY)


def widths_seen(clip: nn.Module) -> list[int]:
    """Fills up with the number of tokens of each matrix that is embedded."""
    widths = []
    embedding = clip.token_embedding if hasattr(clip, "token_embedding") else clip.text.token_embedding
    embedding.register_forward_pre_hook(lambda _module, inputs: widths.append(inputs[0].shape[1]))
    return widths


def encoded_whole(clip: nn.Module, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        return clip.encode_text(tokens)


@pytest.mark.parametrize(
    "texts",
    [
        ["a photo"],
        ["", "x"],
        ["a photo of a damaged metal nut", "nut", "an industrial close-up photo of the nut for anomaly detection"],
        ["longer than the context " * 40, "a photo"],
    ],
    ids=["one", "empty", "of several lengths", "cut by the tokenizer"],
)
def test_prompts_equal_encode_text(clip, tokenizer, texts):
    tokens = tokenizer(texts)
    assert_same(encode_prompts(clip, tokens), encoded_whole(clip, tokens))


@pytest.mark.parametrize("class_name", ["metal nut", "wood"])
def test_a_whole_ensemble_equals_encode_text(clip, tokenizer, class_name):
    for texts in prompt_ensemble(class_name):
        tokens = tokenizer(texts)
        embeddings = encode_prompts(clip, tokens)
        assert embeddings.shape == (len(texts), 24)
        assert embeddings.dtype == torch.float32
        assert not embeddings.requires_grad
        assert_same(embeddings, encoded_whole(clip, tokens))


def test_padding_is_not_encoded(clip, tokenizer):
    widths = widths_seen(clip)
    tokens = tokenizer(prompt_ensemble("metal nut").anomalous)
    encode_prompts(clip, tokens)
    longest = max(int((row != 0).sum()) for row in tokens)
    assert set(widths) == {longest}
    assert longest < 25 < tokens.shape[1]


@pytest.mark.parametrize(
    "changes", [{"quick_gelu": True}, {"proj_bias": True}, {"ls_init_value": 0.3}, {"layers": 1}, {"heads": 2}], ids=str
)
def test_other_causal_text_towers_are_cut_too(tokenizer, changes):
    clip = text_variant(**changes)
    widths = widths_seen(clip)
    tokens = tokenizer(["a photo of a damaged metal nut", "nut"])
    embeddings = encode_prompts(clip, tokens)
    assert widths[0] < tokens.shape[1]
    assert_same(embeddings, encoded_whole(clip, tokens))


@pytest.mark.parametrize(
    "changes",
    [
        {"no_causal_mask": True},
        {"pool_type": "last"},
        {"pool_type": "first"},
        {"kind": open_clip.CustomTextCLIP},
        {"kind": open_clip.CustomTextCLIP, "no_causal_mask": True},
    ],
    ids=["no causal mask", "pooled at the last", "pooled at the first", "custom text", "custom text without mask"],
)
def test_other_text_towers_get_the_whole_matrix(tokenizer, changes):
    clip = text_variant(**changes)
    tokens = tokenizer(["a photo of a damaged metal nut", "nut"])
    expected = encoded_whole(clip, tokens)
    widths = widths_seen(clip)
    assert_same(encode_prompts(clip, tokens), expected)
    assert set(widths) == {tokens.shape[1]}


def test_text_tower_without_projection(clip, tokenizer):
    clip.text_projection = None
    tokens = tokenizer(["a photo of a damaged metal nut", "nut"])
    assert_same(encode_prompts(clip, tokens), encoded_whole(clip, tokens))


def test_ensemble_is_the_mean_of_directions(clip, tokenizer):
    ensemble = PromptEnsemble(
        ["a photo of a normal nut", "nut", "a flawless nut for visual inspection"],
        ["a photo of a damaged nut", "broken"],
    )
    actual = encode_ensemble(clip, tokenizer, ensemble)
    assert actual.shape == (2, 24)
    assert actual.dtype == torch.float32
    for embedding, texts in zip(actual, ensemble, strict=True):
        directions = [vector / vector.norm() for vector in encoded_whole(clip, tokenizer(texts))]
        mean = sum(directions) / len(directions)
        assert_same(embedding, mean / mean.norm())
