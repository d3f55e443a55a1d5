"""What can be said of a node's inputs before anything runs."""

from collections.abc import Callable, Mapping

from comfy_api.latest import io


def refusal(check: Callable[[str], object], value: str | None) -> str:
    """For `validate_inputs`: the ValueError that a check raises, as text; "" where it raises none.

    Args:
        check: takes the value.
        value: of an input; None where it comes from another node and is not known yet.
    """
    try:
        if value is not None:
            check(value)
    except ValueError as error:
        return str(error)
    return ""


def check_links(
    node: type[io.ComfyNode], received: Mapping[str, str], either: tuple[str, str]
) -> bool | str:
    """For `validate_inputs` with `input_types`, which leaves the types of links to the node.

    Args:
        node: with its inputs.
        received: connected input -> type of what is connected.
        either: two inputs, of which one is to be connected.

    Returns:
        True, or what is wrong, in a sentence.
    """
    for form in node.define_schema().inputs:
        got, wanted = received.get(form.id), form.get_io_type()
        if got is None or "*" in (got, wanted):
            continue
        # A combo is wanted of those who give its name as text, too.
        if not set(got.split(",")) & set(wanted.split(",")) and wanted != "COMBO":
            return f"{form.id} is connected to {got}; connect {wanted}."
    connected = [name for name in either if name in received]
    if len(connected) == 1:
        return True
    given = (
        f"both {either[0]} and {either[1]} are"
        if connected
        else f"neither {either[0]} nor {either[1]} is"
    )
    return f"{given} connected; connect one of them."
