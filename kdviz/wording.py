"""Numbers as people read them, in sentences and tables alike."""

import math

_MOST = 6  # decimals


def say_number(value: float, reach: float = math.nan, *, sign: bool = False) -> str:
    """Write a number with as many digits as it deserves.

    Parameters
    ----------
    value
        NaN is a dash.
    reach
        How far it is uncertain, of which two significant digits are kept; of the number itself if NaN or 0.
    sign
        Whether a plus is written.
    """
    if not math.isfinite(value):
        return "–"
    size = abs(reach) if math.isfinite(reach) and reach else abs(value)
    decimals = min(max(1 - math.floor(math.log10(size)), 0), _MOST) if size else 0
    text = f"{value:{'+' if sign else ''}.{decimals}f}"
    return text if float(text) else text.lstrip("+-")  # no zero has a sign


def find_reach(low: float, high: float) -> float:
    """Return the reach at which both ends of an interval are written: one that is not 0 is not as 0."""
    reach = (high - low) / 2
    while reach > 1e-5 and any(end and not float(say_number(end, reach)) for end in (low, high)):
        reach /= 10
    return reach


def say_sides(one: float, other: float, difference: float, low: float, high: float) -> tuple[str, str]:
    """Write two numbers beside their difference and its interval, so that they differ by what is written."""
    reach = find_reach(low, high)
    both, told = (say_number(one, reach), say_number(other, reach)), say_number(difference, reach)
    if math.isnan(reach) or round(float(both[0]) - float(both[1]), _MOST) == float(told):
        return both
    return say_number(one, reach / 10), say_number(other, reach / 10)


def say_interval(value: float, low: float, high: float, unit: str = "", *, sign: bool = True) -> str:
    """Write a difference with its interval, ``"+4.7 per image (2.1 to 7.3)"``; without one, alone."""
    reach = find_reach(low, high)
    told = f"{say_number(value, reach, sign=sign)}{unit}"
    return told if math.isnan(reach) else f"{told} ({say_number(low, reach)} to {say_number(high, reach)})"
