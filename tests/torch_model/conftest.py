import pytest


@pytest.fixture
def warned(caplog):
    """The model's warnings so far."""
    logger = "dual_image_clip.torch_model"
    caplog.set_level("WARNING", logger)
    return lambda: [record.getMessage() for record in caplog.records if record.name == logger]
