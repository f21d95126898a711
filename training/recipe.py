"""Everything that decides what the checkpoint becomes, in one place."""

from dataclasses import dataclass, field

from dual_image_clip.procedural import FAMILIES, HELD_OUT_FAMILIES

TRAINING_FAMILIES = tuple(name for name in FAMILIES if name not in HELD_OUT_FAMILIES)


@dataclass
class DataRecipe:
    """The drawn training set.

    Attributes:
        families: The families; none that is held out for tests.
        products: Categories of each family.
        pairs: Pairs of each category: a good product, and the very same with a defect.
        first_seed: Seed of the first category. Seeds below it are for validation and tests.
    """

    families: list[str] = field(default_factory=lambda: list(TRAINING_FAMILIES))
    products: int = 256
    pairs: int = 4
    first_seed: int = 1000

    def __post_init__(self) -> None:
        """Refuses families that are unknown or held out.

        Raises:
            ValueError: There are such families.
        """
        wrong = [name for name in self.families if name not in TRAINING_FAMILIES]
        if wrong or not self.families:
            msg = f"data.families must be among {', '.join(TRAINING_FAMILIES)}; got {', '.join(wrong) or 'none'}"
            raise ValueError(msg)


@dataclass
class TowerRecipe:
    """The dual encoder.

    Attributes:
        patch_size: Side of a patch of the image tower, in pixels.
        width: Width of the image tower.
        layers: Depth of the image tower.
        head_width: Width of its attention heads.
        embed_dim: Width of the shared embedding space.
        text_width: Width of the text tower.
        text_layers: Depth of the text tower.
    """

    patch_size: int = 16
    width: int = 192
    layers: int = 5
    head_width: int = 96
    embed_dim: int = 256
    text_width: int = 64
    text_layers: int = 2


@dataclass
class TextRecipe:
    """How the text tower is fitted, before any image is seen.

    Attributes:
        steps: AdamW steps.
        batch_size: Prompts a step.
        learning_rate: Peak learning rate.
        state_share: Length of an embedding's state part; that of its class part is 0.8.
    """

    steps: int = 1200
    batch_size: int = 96
    learning_rate: float = 2e-3
    state_share: float = 0.6


@dataclass
class LossRecipe:
    """Weights of the losses of the image tower, and what they look at.

    Attributes:
        language: Of A^L.
        visual: Of A^V.
        joint: Of the joint map.
        image: Of the image score.
        class_token: Of the class token's text score.
        contrast: Of the contrastive loss between class tokens and texts.
        auxiliary: Of a linear probe on the ordinary path, which is thrown away afterwards.
        ranking: Of the ranks of patches and images within a product, in the losses of all maps.
        adapted_share: Share of the steps in which A^L looks at tokens behind an adapter, as the test-time adaptation
            starts with.
        fitted_from: Step of the training from which that adapter is fitted where a product has a pseudo anomaly.
        most_references: Largest number of references that a query is compared with.
        temperature: τ.
    """

    language: float = 1.0
    visual: float = 1.0
    joint: float = 0.5
    image: float = 0.5
    class_token: float = 0.5
    contrast: float = 0.1
    auxiliary: float = 0.5
    ranking: float = 1.0
    adapted_share: float = 0.5
    fitted_from: int = 14000
    most_references: int = 3
    temperature: float = 0.07


@dataclass
class ImageRecipe:
    """How the image tower is trained.

    Attributes:
        rounds: Steps of each round. A round starts with windows and a learning rate that rises to its peak, and ends
            with whole images and next to none.
        window_share: Share of a round's steps, the first ones, that see windows of the images.
        window: Side of those windows in pixels.
        window_products: Products in a batch of windows, four images each.
        full_products: Products in a batch of whole images.
        pseudo_share: Share of the products whose last image gets a pseudo anomaly in place of a drawn defect.
        blended_share: Share of the products in windows that a good product of another family shines through.
        strongest_defects: Largest factor by which defects are strengthened at first; it falls to 1 in the first round.
        optimizer: ``adamw``, or ``muon`` for the matrices of the blocks.
        learning_rate: Peak learning rate.
        weight_decay: Of matrices.
        warm_up: Steps of each round until the learning rate has its peak.
        save_every: Steps between checkpoints.
    """

    rounds: list[int] = field(default_factory=lambda: [9000, 12000])
    window_share: float = 0.75
    window: int = 160
    window_products: int = 8
    full_products: int = 4
    pseudo_share: float = 0.25
    blended_share: float = 0.5
    strongest_defects: float = 3.0
    optimizer: str = "muon"
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warm_up: int = 200
    save_every: int = 200


@dataclass
class PhotographRecipe:
    """How the image tower learns about photographs, last of all.

    Attributes:
        steps: Steps; none leaves the round out.
        teachers: EfficientNet-Lite networks that teach.
        window_pieces: Products in a batch of windows that are cut from photographs, four pieces each.
        full_pieces: The same in a batch of whole images.
        window_products: Drawn products in a batch of windows.
        full_products: Drawn products in a batch of whole images.
        learning_rate: Peak learning rate.
        warm_up: Steps until the learning rate has its peak.
        features: Weight of the loss of what linear heads read from patch tokens.
        relations: Of the likenesses between patches of pieces.
        drawn_relations: Of the likenesses between patches of drawn products.
        distances: Of the order of a product's patches by their distance to a reference.
        text: Of the text scores of what drawn defects change in pieces.
        kept_share: Share of the weights before the round in the mean of both that it ends with.
        loss: Weights of the losses on drawn products.
    """

    steps: int = 1200
    teachers: list[str] = field(default_factory=lambda: ["lite1"])
    window_pieces: int = 3
    full_pieces: int = 2
    window_products: int = 2
    full_products: int = 1
    learning_rate: float = 1e-3
    warm_up: int = 80
    features: float = 2.0
    relations: float = 4.0
    drawn_relations: float = 1.0
    distances: float = 1.0
    text: float = 0.1
    kept_share: float = 0.4
    loss: LossRecipe = field(
        default_factory=lambda: LossRecipe(
            language=0.3, visual=0.0, joint=0.0, image=0.0, class_token=0.2, auxiliary=0.0, adapted_share=0.0
        )
    )


@dataclass
class Recipe:
    """The whole training.

    Attributes:
        name: Name of the checkpoint, and of its architecture in open_clip.
        seed: Seed of everything random but the drawn products, which have their own.
        runs: Folder of the runs; each has a folder of its name in it.
        data_folder: Folder of the drawn training set.
        data: The training set.
        tower: The architecture.
        text: Text training.
        images: Image training.
        loss: Losses of the image training.
        photographs: The last round.
        start: Weights that the last round begins with, in place of a training on drawn products.
        temperature: τ of the checkpoint. A larger one than that of the losses lets text scores, which are noise on what
            the text tower was never shown, drown less of what references tell.
    """

    name: str = "dual-image-clip-demo"
    seed: int = 0
    runs: str = "runs/training"
    data_folder: str = "datasets/training"
    data: DataRecipe = field(default_factory=DataRecipe)
    tower: TowerRecipe = field(default_factory=TowerRecipe)
    text: TextRecipe = field(default_factory=TextRecipe)
    images: ImageRecipe = field(default_factory=ImageRecipe)
    loss: LossRecipe = field(default_factory=LossRecipe)
    photographs: PhotographRecipe = field(default_factory=PhotographRecipe)
    start: str | None = None
    temperature: float = 1.0
