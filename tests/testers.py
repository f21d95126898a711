"""What every model must do, whatever it is made of: a base class whose tests its subclasses inherit."""

import copy
import pickle
import random
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from tests.helpers import assert_same, uniform


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
        assert_same(self.run(model), self.run(model), 0)

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
        assert_same(self.run(other), expected, 0)
        self._spoil(other)
        assert_same(self.run(model), expected, 0)

    def test_pickling_changes_nothing(self):
        model = self.make()
        assert_same(self.run(pickle.loads(pickle.dumps(model))), self.run(model), 0)  # noqa: S301

    def test_a_state_dict_makes_a_fresh_model_the_same(self):
        model, fresh = self.make(seed=0), self.make(seed=1)
        fresh.load_state_dict(model.state_dict())
        assert_same(self.run(fresh), self.run(model), 0)

    def test_training_mode_is_refused_in_silence(self):
        model = self.make()
        expected = self.run(model)
        model.train()
        assert not any(module.training for module in model.modules() if isinstance(module, nn.MultiheadAttention))
        assert_same(self.run(model), expected, 0)

    def test_images_and_global_randomness_are_left_as_they_were(self):
        model, images = self.make(), uniform(2, 3, 64, 64)
        state = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
        self.run_on(model, images)
        assert torch.equal(images, uniform(2, 3, 64, 64))
        assert torch.equal(torch.get_rng_state(), state[0])
        assert (np.random.get_state()[1].tolist(), random.getstate()) == state[1:]

    def test_a_run_changes_no_weight_and_leaves_no_hook(self):
        model = self.make()
        before = [value.clone() for value in self._values(model)]
        self.run(model)
        # Thresholds that nobody has set are NaN.
        assert_close(self._values(model), before, atol=0, rtol=0, equal_nan=True)
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())

    def test_no_weight_asks_for_gradients(self):
        assert not any(weight.requires_grad for weight in self.make().parameters())

    def test_inference_mode_changes_nothing(self):
        model = self.make()
        expected = self.run(model)
        with torch.inference_mode():
            assert_same(self.run(model), expected, 0)

    def test_half_precisions_stay_near(self):
        model = self.make()
        expected = self.run(model)
        for dtype in self.half_precisions:
            with torch.autocast("cpu", dtype):
                found = self.run(model)
            for near, exact in zip(found, expected, strict=True):
                assert near.dtype == torch.float32
                assert_same(near, exact, self.half_tolerance)

    def test_an_input_of_another_shape_is_refused(self):
        with pytest.raises(ValueError, match=r"\(B, 3, H, W\)"):
            self.run_on(self.make(), torch.zeros(3, 64, 64))

    def run_on(self, model: Any, images: Tensor) -> Any:
        """Outputs for some images."""
        return model(images)

    def _spoil(self, model: nn.Module) -> None:
        with torch.no_grad():
            for value in self._values(model):
                if value.is_floating_point():
                    value.mul_(-0.5)

    @staticmethod
    def _values(model: nn.Module) -> list[Tensor]:
        return [*model.parameters(), *model.buffers()]
