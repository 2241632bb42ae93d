"""Numbers as text for pages and terminals, and how many of them to show."""


def evenly(count: int, most: int) -> list[int]:
    """Return at most ``most`` of 0 … count − 1, evenly spaced, with the first and the last."""
    if count <= most:
        return list(range(count))
    return [round(i * (count - 1) / (most - 1)) for i in range(most)]


def fraction(value: float | None) -> str:
    """Return a fraction in percent."""
    if value is None:
        return "–"
    return f"{100 * value:.1f} %"


def number(value: float | None) -> str:
    """Return a number with three significant digits, or as an integer from 1000 on."""
    if value is None:
        return "–"
    size = abs(value)
    form = ".1e" if size >= 1e6 else ",.0f" if size >= 1000 else "#.3g"
    return "0" if size < 1e-6 else format(value, form).removesuffix(".").replace("-", "−")


def duration(seconds: float) -> str:
    """Return seconds in hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def written(form: str, value: float) -> str:
    """Return a number in a format, with a space before the percent sign."""
    return form.format(value).replace("%", " %")
