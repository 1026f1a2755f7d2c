"""How what was found about swaps is shown: tables in Markdown, and aims that are met or missed."""

import statistics

# As sconce_load_step_seconds has them.
STEPS = ("settling", "structure_checked", "admitted", "read", "loaded", "prepared", "warmed",
         "checked", "published")


class Aims:
    def __init__(self):
        self.found = []

    def at_most(self, name, value, bound, unit="", note=""):
        met = value <= bound
        self.found.append({"aim": name, "value": value, "bound": bound, "met": met, "note": note})
        by = "" if met or bound == 0 else f" by {100 * (value / bound - 1):.0f}%"
        print(f"- {'met' if met else 'MISSED' + by}: {name}: {value:.4g}{unit}, aim at most "
              f"{bound:.4g}{unit}{'; ' + note if note else ''}", flush=True)


def table(head, rows):
    print("\n| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |")
    print(flush=True)


def steps_taken(swaps):
    """The steps that took time in one of `swaps`, in their order."""
    return [step for step in STEPS if any(steps.get(step) for steps in swaps)]


def middle(values, digits=3):
    """'median (middle half)'."""
    if len(values) < 2:
        return f"{values[0]:.{digits}f}" if values else "-"
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{median:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"
