"""Data sets under the names that anomalib's users type."""

from anomalib.data import MVTecAD

__all__ = ["MVTec"]


class MVTec(MVTecAD):
    """MVTec AD under the name it had in anomalib 1.x, so that ``anomalib test --data MVTec`` still works.

    All arguments are those of :class:`anomalib.data.MVTecAD`.
    """
