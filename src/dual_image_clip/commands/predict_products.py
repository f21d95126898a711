"""``predict`` on several products: one after the other, with one list and one report of all."""

import argparse
import traceback
from collections.abc import Iterator

from dual_image_clip.commands.errors import FAILED, INTERRUPTED, WRONG_ARGUMENTS, CommandError
from dual_image_clip.commands.model import load_model
from dual_image_clip.commands.output import tell
from dual_image_clip.commands.products import Product, Products, all_failed, find_products
from dual_image_clip.commands.scoring import early_end, give_outcome, picture_folders, require_output, score_folder
from dual_image_clip.mistakes import one_line
from dual_image_clip.photos import UnusableFile
from dual_image_clip.prediction import (
    CollectsPredictions,
    HeatmapVisualizer,
    Outcome,
    OutputError,
    ResultFiles,
    on_one_line,
    put_together,
    settings_of,
    settings_together,
)
from dual_image_clip.weights import WeightsUnavailableError, sharing_weights

_NOTHING_READ = "none of its photos could be read"


def run(options: argparse.Namespace) -> int:
    """Scores the products of a folder.

    Args:
        options: Arguments of ``predict``.

    Returns:
        Exit code.

    Raises:
        CommandError: An argument is wrong, or no product could be scored.
        KeyboardInterrupt: The run was ended before the first photo was scored.
    """
    found = find_products(options)
    require_output(options, (photo for each in found.products for photo in each.photos), options.folder)
    results = _Results(found, options)
    for name in found.failures:
        results.tell_failure(name)
    files = ResultFiles(options.output)
    try:
        files.claim()
    except OutputError as error:
        raise CommandError(str(error), FAILED) from error
    try:
        interrupted = _predict_all(found, results, files)
        if results.begun:
            if interrupted or files.failures:
                files.write_list(results.outcome)
            files.write_report(results.outcome, settings_together(results.settings))
    finally:
        files.release()
    if results.is_empty:
        if interrupted:
            raise KeyboardInterrupt
        raise CommandError(all_failed(results.failures), results.worst)
    give_outcome(options, results.outcome, files.written, results.summary(), failures=results.failures)
    if interrupted:
        return INTERRUPTED
    return FAILED if results.failures or files.failures or results.pictures_failed else 0


def _predict_all(found: Products, results: "_Results", files: ResultFiles) -> bool:
    """Scores all products, and writes the list after each; returns whether Ctrl-C has ended it early."""
    try:
        with sharing_weights():
            for product in found.products:
                results.predict(product)
                # One that could not be written is tried once more at the end.
                if results.begun and not files.failures:
                    files.write_list(results.outcome)
    except KeyboardInterrupt:
        return True
    return False


class _Results:
    """What was found in products so far.

    Args:
        found: The products.
        options: Arguments of ``predict``.

    Attributes:
        failures: Why products were not scored, or not to the end, by name.
        settings: Settings that products were scored with, by name.
        pictures_failed: Whether a picture could not be written.
        worst: Exit code where no product could be scored.
    """

    def __init__(self, found: Products, options: argparse.Namespace) -> None:
        self.failures = dict(found.failures)
        self.settings: dict[str, dict[str, str]] = {}
        self.pictures_failed = False
        self.worst = WRONG_ARGUMENTS
        self._found = found
        self._options = options
        self._outcomes: dict[str, Outcome] = {}

    @property
    def begun(self) -> bool:
        """Whether there is anything to be written."""
        return bool(self._outcomes)

    @property
    def is_empty(self) -> bool:
        """Whether no photo was scored."""
        return not any(each.predictions for each in self._outcomes.values())

    @property
    def outcome(self) -> Outcome:
        """Everything that was found."""
        failed = [
            UnusableFile(str(self._options.folder / name), f"could not be scored: {reason}")
            for name, reason in self.failures.items()
        ]
        done = self._outcomes.keys() | self.failures.keys()
        left_out = sum(len(each.photos) for each in self._found.products if each.name not in done)
        return put_together(self._outcomes, [*self._found.passed_over, *failed], left_out)

    def predict(self, product: Product) -> None:
        """Scores a product; where it fails, what was found until then is kept.

        Args:
            product: The product.

        Raises:
            CommandError: There are no weights, for any product.
            KeyboardInterrupt: It was ended early by Ctrl-C.
        """
        collects = CollectsPredictions(self._options.output, product.name, product.options.min_area)
        heatmaps = HeatmapVisualizer(
            *picture_folders(self._options), root=self._options.folder, min_area=product.options.min_area
        )
        try:
            model = load_model(product.options, max(1, len(product.photos) - 1), visualizer=heatmaps)
            self.settings[product.name] = settings_of(model)
            number = self._found.products.index(product) + 1
            place = f"{product.name} ({number} of {len(self._found.products)})"
            score_folder(model, product.folder, self._options.output, collects, place)
            if not (collects.outcome and collects.outcome.predictions):
                raise CommandError(_NOTHING_READ, FAILED)
        except CommandError as error:
            if isinstance(error.__cause__, WeightsUnavailableError):
                raise
            self._note_failure(product, one_line(error), error.exit_code)
        except Exception as error:
            # Whatever ends one product must not cost the others.
            self._note_failure(product, f"{type(error).__name__}: {one_line(error)}", FAILED)
        finally:
            if collects.outcome is not None:
                self._outcomes[product.name] = collects.outcome
        self.pictures_failed = self.pictures_failed or bool(heatmaps.failures)

    def _note_failure(self, product: Product, reason: str, exit_code: int) -> None:
        if self._options.debug:
            traceback.print_exc()
        self.failures[product.name] = reason
        self.worst = min(self.worst, exit_code)
        self.tell_failure(product.name)

    def tell_failure(self, name: str) -> None:
        """Tells at once that a product could not be scored."""
        tell(f"{name} could not be scored: {self.failures[name]}", style="bold red")

    def summary(self) -> Iterator[str]:
        """A line or two for each product."""
        outcome = self.outcome
        yield f"{len(self._outcomes)} products, {len(outcome.predictions)} images, {outcome.num_anomalous} anomalous"
        yield from early_end(outcome)
        for name, part in self._outcomes.items():
            labels = f"{part.num_anomalous} anomalous"
            if part.thresholds[name] is None:
                labels = "too few to call any normal or anomalous without a threshold"
            yield f"{on_one_line(name)}: {len(part.predictions)} images, {labels}"
            for each in part.predictions[:1]:
                yield f"  {each.score:.3f}  {each.label}  {on_one_line(each.path)}"
        for name, reason in self.failures.items():
            yield f"{on_one_line(name)}: failed: {reason}"
