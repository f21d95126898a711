"""Products of ``predict``: a subfolder of photos each, and what is said about it."""

import argparse
import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dual_image_clip.class_names import class_name_from_category
from dual_image_clip.commands.errors import CommandError
from dual_image_clip.commands.model import golden_arguments, require_words
from dual_image_clip.commands.output import tell
from dual_image_clip.commands.products_file import read_products_file
from dual_image_clip.threshold_file import Limits, read_threshold_file

if TYPE_CHECKING:
    from dual_image_clip.photos import UnusableFile


class Product(NamedTuple):
    """One of several products.

    Attributes:
        name: Of its folder.
        folder: Its photos.
        photos: Their names.
        options: Those of the command, as they are for this product.
    """

    name: str
    folder: Path
    photos: list[str]
    options: argparse.Namespace


class Products(NamedTuple):
    """What there is in a folder of products.

    Attributes:
        products: In the order of their names.
        passed_over: Files and folders that belong to none.
        failures: What is wrong with products that cannot be scored, by name; found before anything is loaded.
    """

    products: list[Product]
    passed_over: list["UnusableFile"]
    failures: dict[str, str]


def add_product_arguments(command: argparse.ArgumentParser) -> None:
    """Adds what tells that photos are of several products."""
    command.add_argument(
        "--class-from-folder",
        action="store_true",
        help="in place of --class-name: each subfolder holds a product, and its name says what the photos show; photos "
        "are only compared with those of their product. --golden is then a folder with a subfolder for each, too",
    )
    command.add_argument(
        "--products",
        type=Path,
        metavar="FILE",
        help="YAML with what differs between such subfolders, {products: {SUBFOLDER: {class_name: ..., golden: ..., "
        "regions: ..., threshold: ..., num_references: ...}}}, each key and subfolder as needed; paths are relative to "
        "FILE. Implies --class-from-folder",
    )


def has_products(options: argparse.Namespace) -> bool:
    """Whether photos are of several products.

    Raises:
        CommandError: It is not clear what photos show.
    """
    several = options.class_from_folder or options.products is not None
    if several and options.class_name is not None:
        msg = "--class-name is for photos of one product, --class-from-folder and --products are for several"
        raise CommandError(msg)
    if not several and options.class_name is None:
        msg = (
            "what do the photos show? Say it with --class-name 'metal nut', or, where each subfolder of "
            f"{options.folder} is called after what is in it, with --class-from-folder"
        )
        raise CommandError(msg)
    return several


def find_products(options: argparse.Namespace) -> Products:
    """Finds products, and what is wrong with them, before anything is loaded.

    Args:
        options: Arguments of ``predict``.

    Returns:
        At least one product, and what was passed over.

    Raises:
        CommandError: There is no product, or an argument is wrong.
    """
    from dual_image_clip.photos import UnusableFile, find_photos

    said = {} if options.products is None else read_products_file(options.products)
    found = Products([], [], {})
    for path in _content(options.folder):
        if not path.is_dir():
            found.passed_over.extend(_loose_photo(path))
        elif _is_of_results(path):
            found.passed_over.append(UnusableFile(str(path), "holds results of an earlier run"))
        else:
            listing = find_photos(path)
            if listing.photos:
                own = _options_of(path.name, options, said)
                found.products.append(Product(path.name, path, listing.photos, own))
            else:
                nothing = [UnusableFile(str(path), "is a folder without photos")]
                found.passed_over.extend(listing.unusable or nothing)
    if not found.products:
        msg = (
            f"no subfolder of {options.folder} has photos (such as .png, .jpg, .tif): --class-from-folder takes each "
            "for a product; for photos of a single one, use --class-name"
        )
        raise CommandError(msg)
    _say_what_is_not_there(options, said, [each.name for each in found.products])
    return _without_mistaken(found, options)


def _content(folder: Path) -> list[Path]:
    if not folder.is_dir():
        msg = f"there is no folder {folder}, with a subfolder for each product"
        raise CommandError(msg)
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        msg = f"{folder} cannot be searched: {error.strerror}"
        raise CommandError(msg) from error


def _loose_photo(path: Path) -> list["UnusableFile"]:
    from dual_image_clip.photos import UnusableFile, is_photo, why_not

    if not is_photo(path.suffix) and why_not(path.suffix) is None:
        return []
    return [UnusableFile(str(path), "lies beside the folders of products: move it into one of them")]


def _is_of_results(folder: Path) -> bool:
    from dual_image_clip.photos import RECORD_NAME

    return (folder / RECORD_NAME).exists()


def _options_of(name: str, options: argparse.Namespace, said: Mapping[str, Mapping[str, Any]]) -> argparse.Namespace:
    """Options of the command for one product: what its file says comes before what the command says."""
    changes = {"class_name": None, "golden": options.golden and options.golden / name, **said.get(name, {})}
    if changes["class_name"] is None:
        if not any(letter.isalpha() for letter in name):
            msg = (
                f"the folder {options.folder / name} has no letters in its name, which is to say what its photos show: "
                f"rename it, or say it in a file for --products: {{products: {{'{name}': {{class_name: metal nut}}}}}}"
            )
            raise CommandError(msg)
        changes["class_name"] = class_name_from_category(name)
    own = argparse.Namespace(**{**vars(options), **changes})
    try:
        require_words(own)
    except CommandError as error:
        msg = f"--products {options.products}: {name}: {error}"
        raise CommandError(msg) from error
    return own


def _say_what_is_not_there(options: argparse.Namespace, said: Mapping[str, Any], names: list[str]) -> None:
    for name in said:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            tell(f"{options.products} names {name}, but {options.folder} has no such folder with photos{hint}")


def _without_mistaken(found: Products, options: argparse.Namespace) -> Products:
    """Keeps apart the products with which something is wrong."""
    if options.golden is not None and not options.golden.is_dir():
        msg = f"--golden: there is no folder {options.golden}, with a subfolder of good photos for each product"
        raise CommandError(msg)
    usable = []
    for product in found.products:
        try:
            _check(product)
        except (CommandError, ValueError, OSError) as error:
            found.failures[product.name] = str(error)
        else:
            usable.append(product)
    if not usable:
        raise CommandError(all_failed(found.failures))
    return found._replace(products=usable)


def _check(product: Product) -> None:
    """Refuses what cannot be right of a product, whatever the model is."""
    from dual_image_clip.method import ReferenceSettings

    if product.options.num_references is not None:
        ReferenceSettings(product.options.num_references)
    if isinstance(threshold := product.options.threshold, Path):
        limits = Limits(source=threshold, settings=read_threshold_file(threshold).settings)
        limits.require_class_name(product.options.class_name)
    if golden := golden_arguments(product.options.golden):
        from dual_image_clip.hooks import GoldenImages

        GoldenImages(golden["k_shot"], golden["few_shot_source"], seed=0).require_apart_from(product.photos)
    if product.options.regions is not None:
        from dual_image_clip.regions import load_regions

        load_regions(product.options.regions)


def all_failed(failures: Mapping[str, str]) -> str:
    """Tells that no product was left, and what was wrong with each, or once where it is the same."""
    reasons = set(failures.values())
    if len(reasons) == 1:
        return reasons.pop()
    return "no product could be scored: " + "; ".join(f"{name}: {reason}" for name, reason in failures.items())
