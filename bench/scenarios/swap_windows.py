"""What the records of the load generator say of the time around swaps and of the time between."""

import dataclasses
import random
import statistics

import numpy

# As bench/load_generator/request_record.h says.
RECORD = numpy.dtype([
    ("intended", "<i8"), ("started", "<i8"), ("done", "<i8"), ("version", "<i8"),
    ("weights", "<u8"), ("value", "<u8"), ("status", "u1"), ("uniform", "u1"), ("unused", "V6")])
AFTER_FLIP_NS = 250_000_000
PIECE_NS = 250_000_000
DRAWS = 200


def read(path):
    return numpy.fromfile(path, RECORD)


def failed(records):
    return int((records["status"] != 0).sum())


def mixed(records, model):
    """Answers that are not through and through what the version they name says."""
    good = records[records["status"] == 0]
    values = good["value"].astype("<u4").view("<f4")
    return int(((good["uniform"] == 0) | (values != model.answer(good["version"]))).sum())


def first_answer_ns(records, version):
    """When the first answer of `version` came; None where none did."""
    done = records["done"][(records["status"] == 0) & (records["version"] == version)]
    return int(done.min()) if len(done) else None


def latencies_ms(records):
    return (records["done"] - records["intended"]) / 1e6


def lateness_ms(records):
    return (records["started"] - records["intended"]) / 1e6


@dataclasses.dataclass
class Latency:
    requests: int
    p50: float
    p99: float
    p999: float
    max: float

    @classmethod
    def of(cls, milliseconds):
        if len(milliseconds) == 0:
            return cls(0, *[float("nan")] * 4)
        return cls(len(milliseconds), *(float(value) for value in numpy.quantile(
            milliseconds, [0.5, 0.99, 0.999, 1], method="higher")))


def within(records, windows):
    """The records of requests that were to start in one of `windows`, which do not overlap."""
    intended = records["intended"]
    inside = numpy.zeros(len(records), bool)
    for begin, end in windows:
        inside |= (begin <= intended) & (intended < end)
    return records[inside]


def outside(begin, end, windows):
    """What of the time from `begin` to `end` lies outside `windows`."""
    found = []
    for stop, resume in [*sorted(windows), (end, end)]:
        if begin < stop:
            found.append((begin, stop))
        begin = max(begin, resume)
    return found


def pieces(windows):
    """`windows` in pieces of equal length; what is left of each is left out."""
    return [(start, start + PIECE_NS) for begin, end in windows
            for start in range(begin, end - PIECE_NS + 1, PIECE_NS)]


def quiet_spread(records, quiet, count, quantile=0.99):
    """What the machine alone does to a ratio of percentiles: of `count` pieces of quiet time drawn
    at random, at most half of them, against the other pieces. Nine draws of ten lie between the two
    numbers returned; None where there is too little quiet time."""
    if len(quiet) < 4:
        return None
    count = min(count, len(quiet) // 2)
    by_piece = [latencies_ms(within(records, [piece])) for piece in quiet]
    order = random.Random(0)
    ratios = []
    for _ in range(DRAWS):
        shuffled = order.sample(by_piece, len(by_piece))
        some = numpy.concatenate(shuffled[:count])
        rest = numpy.concatenate(shuffled[count:])
        if len(some) == 0 or len(rest) == 0:
            return None
        ratios.append(numpy.quantile(some, quantile, method="higher")
                      / numpy.quantile(rest, quantile, method="higher"))
    twentieths = statistics.quantiles(ratios, n=20)
    return float(twentieths[0]), float(twentieths[-1])
