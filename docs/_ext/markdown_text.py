"""Text for tables of generated Markdown pages."""


def cell(text: str) -> str:
    """Return text for a cell of a Markdown table: one line, and no character that is markup outside code."""
    parts = " ".join(text.split()).replace("|", "\\|").split("`")
    parts[::2] = [part.replace("*", "\\*").replace("_", "\\_").replace("<", "&lt;") for part in parts[::2]]
    return "`".join(parts)


def code(text: str) -> str:
    """Return text as code for a cell of a Markdown table; "" stays empty."""
    line = " ".join(text.split()).replace("|", "\\|")
    return f"`` {line} ``" if "`" in line else f"`{line}`" if line else ""
