"""The image tower for images of one size, as an exported graph can hold it.

Position embeddings of another grid than the tower's own are interpolated with an antialiasing filter that neither ONNX
nor OpenVINO computes as torch does, so that is done beforehand.
"""

from torch import Tensor

from dual_image_clip.method import DualPathEncoder


class FixedSizeEncoder(DualPathEncoder):
    """An encoder of images of one size, with the weights of another encoder.

    Args:
        encoder: Encoder of images of any size.
        size: Height and width of the images in pixels.
    """

    fixed_embedding: Tensor

    def __init__(self, encoder: DualPathEncoder, size: tuple[int, int]) -> None:
        super().__init__(encoder.visual)
        rows, columns = (side // patch for side, patch in zip(size, encoder.patch_size, strict=True))
        self.register_buffer("fixed_embedding", encoder.position_embedding(rows, columns).detach(), persistent=False)

    def position_embedding(self, rows: int, columns: int) -> Tensor:
        """The embedding of this size, ``(1 + rows · columns, width)``."""
        del rows, columns
        return self.fixed_embedding
