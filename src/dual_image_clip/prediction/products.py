"""What runs on several products have found, put together for one list and one report."""

from collections.abc import Mapping, Sequence

from dual_image_clip.photos import UnusableFile
from dual_image_clip.prediction.predictions import Outcome


def put_together(outcomes: Mapping[str, Outcome], passed_over: Sequence[UnusableFile], left_out: int) -> Outcome:
    """Makes one outcome of those of several products.

    Scores of different products do not compare, so images are ranked within their product.

    Args:
        outcomes: What was found, by product.
        passed_over: Files and folders that belong to none of these.
        left_out: Files of products that an early end has left out.

    Returns:
        Everything, in the order of the products.
    """
    parts = list(outcomes.values())
    return Outcome(
        predictions=[each for part in parts for each in part.predictions],
        thresholds={product: limit for part in parts for product, limit in part.thresholds.items()},
        unusable=[*passed_over, *(each for part in parts for each in part.unusable)],
        total=sum(part.total for part in parts) + len(passed_over) + left_out,
    )


def settings_together(settings: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Makes one table of settings, in which those that differ are told for each product.

    Args:
        settings: Settings of the model by name, by product; all have the same names.

    Returns:
        Settings by name.
    """
    found = {}
    for name in next(iter(settings.values()), ()):
        values = {product: each[name] for product, each in settings.items()}
        same = len(set(values.values())) == 1
        found[name] = (
            next(iter(values.values())) if same else "; ".join(f"{product}: {each}" for product, each in values.items())
        )
    return found
