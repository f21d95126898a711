"""The service's description for people: one page that needs nothing else, so that it is there without internet."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def describe(schema: dict[str, Any], address: str) -> str:
    """Makes the page.

    Args:
        schema: The service's OpenAPI description.
        address: Where the service is, for examples.

    Returns:
        HTML.
    """
    environment = Environment(
        loader=PackageLoader("dual_image_clip.service", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.globals["type_of"] = _type_of
    return environment.get_template("page.html").render(
        schema=schema, address=address, models=schema["components"]["schemas"]
    )


def _type_of(value: dict[str, Any]) -> str:
    """A type in words, such as ``"list of Defect"``."""
    if "$ref" in value:
        return str(value["$ref"]).rpartition("/")[2]
    if "anyOf" in value:
        return " or ".join(_type_of(each) for each in value["anyOf"])
    if "enum" in value or "const" in value:
        return " or ".join(f'"{each}"' for each in value.get("enum", [value.get("const")]))
    if value.get("type") == "array":
        return f"list of {_type_of(value['items'])}"
    return str(value.get("type", "anything"))
