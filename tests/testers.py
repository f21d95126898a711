"""What every model must do, whatever it is made of: a base class whose tests its subclasses inherit."""

import copy
import pickle
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close


class ModelTester:
    """Give a subclass ``make`` and ``run``, and it has these tests.

    Attributes:
        half_precisions: Types of autocast that the model supports on a CPU.
        half_tolerance: Largest difference that they may make to an output.
    """

    half_precisions: ClassVar[tuple[torch.dtype, ...]] = (torch.bfloat16, torch.float16)
    half_tolerance: ClassVar[float] = 0.05

    def make(self, seed: int = 0) -> Any:
        """A model with weights of this seed."""
        raise NotImplementedError

    def run(self, model: Any) -> tuple[Tensor, ...]:
        """Outputs for inputs that are always the same, from the start of a run."""
        raise NotImplementedError

    def test_a_second_run_repeats_the_first(self):
        model = self.make()
        self._assert_equal(self.run(model), self.run(model))

    def test_outputs_are_finite_float32_without_a_graph(self):
        for output in self.run(self.make()):
            assert output.dtype == torch.float32
            assert torch.isfinite(output).all()
            assert not output.requires_grad

    def test_other_weights_give_other_outputs(self):
        """Else the tests below would show nothing."""
        first, other = self.run(self.make(seed=0)), self.run(self.make(seed=1))
        assert not all(torch.allclose(*pair) for pair in zip(first, other, strict=True))

    def test_a_copy_is_a_model_of_its_own(self):
        model = self.make()
        expected = self.run(model)
        other = copy.deepcopy(model)
        self._assert_equal(self.run(other), expected)
        self._spoil(other)
        self._assert_equal(self.run(model), expected)

    def test_pickling_changes_nothing(self):
        model = self.make()
        self._assert_equal(self.run(pickle.loads(pickle.dumps(model))), self.run(model))  # noqa: S301

    def test_a_state_dict_makes_a_fresh_model_the_same(self):
        model, fresh = self.make(seed=0), self.make(seed=1)
        fresh.load_state_dict(model.state_dict())
        self._assert_equal(self.run(fresh), self.run(model))

    def test_training_mode_is_refused_in_silence(self):
        model = self.make()
        expected = self.run(model)
        model.train()
        assert not any(module.training for module in model.modules() if isinstance(module, nn.MultiheadAttention))
        self._assert_equal(self.run(model), expected)

    def test_no_weight_asks_for_gradients(self):
        assert not any(weight.requires_grad for weight in self.make().parameters())

    def test_inference_mode_changes_nothing(self):
        model = self.make()
        expected = self.run(model)
        with torch.inference_mode():
            self._assert_equal(self.run(model), expected)

    def test_half_precisions_stay_near(self):
        model = self.make()
        expected = self.run(model)
        for dtype in self.half_precisions:
            with torch.autocast("cpu", dtype):
                found = self.run(model)
            for near, exact in zip(found, expected, strict=True):
                assert near.dtype == torch.float32
                assert_close(near, exact, atol=self.half_tolerance, rtol=0)

    def test_an_input_of_another_shape_is_refused(self):
        with pytest.raises(ValueError, match=r"\(B, 3, H, W\)"):
            self.run_on(self.make(), torch.zeros(3, 64, 64))

    def run_on(self, model: Any, images: Tensor) -> Any:
        """Outputs for some images."""
        return model(images)

    @staticmethod
    def _assert_equal(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
        for one, other in zip(found, expected, strict=True):
            assert_close(one, other, atol=0, rtol=0)

    @staticmethod
    def _spoil(model: nn.Module) -> None:
        with torch.no_grad():
            for value in [*model.parameters(), *model.buffers()]:
                if value.is_floating_point():
                    value.mul_(-0.5)
