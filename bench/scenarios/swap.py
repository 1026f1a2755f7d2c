"""What users notice of swaps: failures, answers of two versions in one, latency around swaps and
between them, memory, the time until new weights answer. Prints Markdown and, for each aim, whether
it is met.

Parts, all of them unless --parts names some:
  spare    a tiny model at a high rate, ResNet-50 at 60% of what it can do and a model of 1 GiB,
           each swapped in turn, the server on all processors: one to spare for the loader
  shared   the same with the server on one processor, where loader and requests share it
  rate     the tiny model alone at a higher rate, on the processor that it shares with the loader,
           which swaps it and the model of 1 GiB in turn
  inplace  the same as spare with swap { mode: IN_PLACE }
  head     ResNet-50 with other weights throughout and with another last layer, in turn, without
           load
  many     1,000 swaps of the tiny model: memory and latency before and after, compared in turn with
           a server that swaps nothing
"""

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import statistics
import sys
import tempfile
import time

import measuring
import swap_models
import swap_windows as windows
from swap_report import Aims, middle, steps_taken, table
from swap_server import Load, Watched

PARTS = ("spare", "shared", "rate", "inplace", "head", "many")
ALL_CPUS = ",".join(map(str, measuring.PROCESSORS))
# Of ResNet, so that trying all batch sizes at the start does not take minutes.
SMALL_BATCHES = "max_batch_size: 8\n"
MIB = 1 << 20
# Two seconds after a process freed memory, a virtual machine may hand it back to its host and stand
# still meanwhile. After so many bytes were freed the next look at quiet time waits for that.
LARGE_BYTES = 512 * MIB
SECONDS_AFTER_LARGE = 3
# What an in-place swap may take beside the weights: buffers through which bytes pass.
STAGING_BYTES = 32 * MIB


@dataclasses.dataclass
class Sizes:
    """How much is measured; --quick shows only that it runs."""
    swaps: int = 30
    fewer_swaps: int = 12  # of the parts that only add to others
    quiet_seconds: float = 1.5
    tiny_rate: int = 2000
    high_rate: int = 5000
    big_rate: float = 2.0
    big_width: int = 8192
    big_depth: int = 4
    resnet: str = "resnet50"
    capacity_seconds: float = 4.0
    head_pairs: int = 10
    many_swaps: int = 1000
    many_pairs: int = 10
    many_seconds: float = 1.0


QUICK = Sizes(swaps=6, fewer_swaps=6, quiet_seconds=0.5, tiny_rate=500, high_rate=1000, big_rate=10,
              big_width=512, resnet="resnet18", capacity_seconds=0.5, head_pairs=2, many_swaps=12,
              many_pairs=2, many_seconds=0.3)


# Swaps under load ---------------------------------------------------------------------------------


@dataclasses.dataclass
class Swap:
    model: object
    version: int
    changed_ns: int
    published_ns: int
    steps: dict
    steady_bytes: int
    peak_bytes: int
    pss_bytes: int
    quiet: tuple  # of the time before
    first_answer_ns: int = None  # where the model is asked anything

    def live_ns(self):
        """When the new weights answered, or would have."""
        return self.first_answer_ns or self.published_ns

    def window(self):
        return self.changed_ns, min(self.published_ns, self.live_ns()) + windows.AFTER_FLIP_NS


def swap_once(watched, model, quiet_seconds):
    before = watched.steps(model.name)
    watched.forget_peak()
    quiet_since = time.monotonic_ns()
    time.sleep(quiet_seconds)
    quiet = (quiet_since, time.monotonic_ns())
    steady, pss = watched.status_bytes("VmHWM"), watched.pss_bytes()
    watched.forget_peak()
    changed = model.swap()
    published = watched.serves(model.name, model.version)
    time.sleep(windows.AFTER_FLIP_NS / 1e9 + 0.05)
    peak = watched.status_bytes("VmHWM")
    after = watched.steps(model.name)
    if model.changed_bytes >= LARGE_BYTES:
        time.sleep(SECONDS_AFTER_LARGE)
    return Swap(model, model.version, changed, published,
                {step: after[step] - before.get(step, 0) for step in after}, steady, peak, pss,
                quiet)


@contextlib.contextmanager
def loads_of(programs, server, models, rates, sizes, folder):
    """Loads of the models that have a rate. A rate of None is 60% of what the model can do beside
    the others."""
    with contextlib.ExitStack() as stack:
        def start(model, rate):
            return stack.enter_context(Load(programs, server, model, rate, folder))

        loads = {model: start(model, rates[model.name]) for model in models
                 if rates.get(model.name)}
        for model in models:
            if rates.get(model.name, 0) is None:
                capacity = measuring.load(
                    programs, server.address, server.pid, model.name, "--concurrency", 4,
                    "--warmup", sizes.capacity_seconds / 4, "--duration", sizes.capacity_seconds,
                    "--timeout", 60)
                rate = round(0.6 * capacity["requests_per_s"], 2)
                print(f"{model.name} can do {capacity['requests_per_s']:.1f} requests/s beside the "
                      f"others; it is sent {rate}")
                loads[model] = start(model, rate)
        yield [loads[model] for model in models if model in loads]


def swaps_under_load(part, programs, sizes, folder, aims, swaps, rates, bound=None, config="",
                     cpus=ALL_CPUS):
    print(f"\n### {part}: {swaps} swaps, server on processor {cpus}, load from "
          f"{measuring.LOAD_CPU}", flush=True)
    makers = {"tiny": swap_models.linear, sizes.resnet: lambda: swap_models.resnet(sizes.resnet),
              "big": lambda: swap_models.mlp(sizes.big_width, sizes.big_depth)}
    repository, shelf = folder / "models", folder / "shelf"
    models = [swap_models.SwappedModel(repository, shelf, name, makers[name],
                                       config + (SMALL_BATCHES if name == sizes.resnet else ""))
              for name in rates]
    os.sync()
    with measuring.sconce(programs, repository, cpus=cpus) as server:
        watched = Watched(server)
        with loads_of(programs, server, models, rates, sizes, folder) as loads:
            time.sleep(1)
            begin = time.monotonic_ns()
            done = [swap_once(watched, models[i % len(models)], sizes.quiet_seconds)
                    for i in range(swaps)]
            end = time.monotonic_ns()
            records = {load.model.name: load.stop() for load in loads}
    for swap in done:
        if swap.model.name not in records:
            continue
        swap.first_answer_ns = windows.first_answer_ns(records[swap.model.name], swap.version)
        if swap.first_answer_ns is None:
            sys.exit(f"error: no answer of version {swap.version} of '{swap.model.name}'")
    latency = show_latency(loads, records, done, begin, end, aims, bound)
    return {"swaps": len(done), "latency": latency, "times": show_times(models, done),
            "memory": show_memory(models, done, aims, bool(config))}


def show_latency(loads, records, swaps, begin, end, aims, bound):
    around = [swap.window() for swap in swaps]
    between = [swap.quiet for swap in swaps]
    rest = windows.outside(begin, end, around + between)
    quiet = windows.pieces(between)
    alike = round(sum(stop - start for start, stop in around) / windows.PIECE_NS)
    rows, by_swapped, found = [], [], {}
    for load in loads:
        name, taken = load.model.name, records[load.model.name]
        outside = windows.Latency.of(windows.latencies_ms(windows.within(taken, between)))
        inside = windows.Latency.of(windows.latencies_ms(windows.within(taken, around)))
        spread = windows.quiet_spread(taken, quiet, alike)
        failed, mixed = windows.failed(taken), windows.mixed(taken, load.model)
        later = windows.Latency.of(windows.latencies_ms(windows.within(taken, rest)))
        for where, latency, spans in (("between", outside, between), ("around", inside, around),
                                      ("later", later, rest)):
            late = windows.Latency.of(windows.lateness_ms(windows.within(taken, spans)))
            rows.append([name, f"{load.rate:g}/s", where, latency.requests,
                         *(f"{value:.2f}" for value in dataclasses.astuple(latency)[1:]),
                         f"{late.p99:.2f}, {late.max:.1f}"])
        for other in {swap.model.name: swap.model for swap in swaps}.values():
            of_other = windows.Latency.of(windows.latencies_ms(windows.within(
                taken, [swap.window() for swap in swaps if swap.model is other])))
            by_swapped.append([name, other.name, of_other.requests, f"{of_other.p50:.2f}",
                               f"{of_other.p99:.2f}", f"{of_other.max:.2f}",
                               f"{of_other.p99 / outside.p99:.2f}"])
        found[name] = {
            "requests": len(taken), "failed": failed, "mixed": mixed, "failures": load.failures,
            "between": dataclasses.asdict(outside), "around": dataclasses.asdict(inside),
            "p99_ratio": inside.p99 / outside.p99, "quiet_spread": spread}
    table(["model", "load", "requests that start", "number", "p50, ms", "p99", "p99.9", "max",
           "generator late, p99, max"], rows)
    table(["requests to", "around swaps of", "number", "p50, ms", "p99", "max",
           "p99 / p99 between"], by_swapped)
    for name, of in found.items():
        aims.at_most(f"failed of {of['requests']} requests to {name}", of["failed"], 0)
        aims.at_most(f"mixed answers of {name}", of["mixed"], 0)
        if bound is not None:
            spread = of["quiet_spread"]
            note = (f"quiet pieces among themselves {spread[0]:.2f}-{spread[1]:.2f}" if spread
                    else "too little quiet time to say what the machine alone does")
            if of["around"]["requests"] < 500:
                note += f"; of {of['around']['requests']} requests only"
            aims.at_most(f"p99 around swaps / between, {name}", of["p99_ratio"], bound, note=note)
    return found


def show_times(models, swaps):
    steps = steps_taken([swap.steps for swap in swaps])
    rows, found = [], {}
    for model in models:
        of = [swap for swap in swaps if swap.model is model]
        live = [(swap.live_ns() - swap.changed_ns) / 1e9 for swap in of]
        rest = [time_live - sum(swap.steps.values()) for time_live, swap in zip(live, of)]
        medians = {step: statistics.median(swap.steps[step] for swap in of) for step in steps}
        rows.append([model.name, len(of), middle(live, 2),
                     *(f"{1e3 * medians[step]:.1f}" for step in steps),
                     f"{1e3 * statistics.median(rest):.1f}"])
        found[model.name] = {"live_s": live, "steps_s": medians,
                             "rest_s": statistics.median(rest)}
    print("From the change of the file to the first new answer; steps in ms (medians), and what is "
          "left of the time: waiting, and the answer itself")
    table(["swapped", "swaps", "until the first answer, s, median (middle half)", *steps, "rest"],
          rows)
    return found


def show_memory(models, swaps, aims, in_place):
    rows, found = [], {}
    for model in models:
        of = [swap for swap in swaps if swap.model is model]
        more = [swap.peak_bytes - swap.steady_bytes for swap in of]
        rows.append([model.name, f"{model.changed_bytes / MIB:.1f}",
                     f"{statistics.median(swap.steady_bytes for swap in of) / MIB:.0f}",
                     f"{statistics.median(swap.pss_bytes for swap in of) / MIB:.0f}",
                     middle([bytes_ / MIB for bytes_ in more], 1), f"{max(more) / MIB:.1f}"])
        found[model.name] = {"changed_bytes": model.changed_bytes, "more_bytes": more}
    table(["swapped", "changed, MiB", "peak resident between swaps", "PSS between",
           "peak of a swap above that, median (middle half)", "most"], rows)
    for model in models:
        if model.name == "tiny":
            continue
        more = statistics.median(found[model.name]["more_bytes"]) / MIB
        if in_place:
            aims.at_most(f"peak above steady, in place, {model.name}", more, STAGING_BYTES / MIB,
                         " MiB", f"{model.changed_bytes / MIB:.0f} MiB change, and what they "
                         "replace is kept while the host has room for it")
        else:
            aims.at_most(f"peak above steady / changed bytes, {model.name}",
                         more / (model.changed_bytes / MIB), 1.02)
    return found


# A changed head -----------------------------------------------------------------------------------


def changed_head(programs, sizes, folder, aims):
    model = swap_models.HeadModel(folder / "models", folder / "shelf", sizes.resnet,
                                  lambda: swap_models.resnet(sizes.resnet), SMALL_BATCHES)
    os.sync()
    with measuring.sconce(programs, folder / "models", cpus=ALL_CPUS) as server:
        watched = Watched(server)
        watched.serves(model.name, 1)

        def swap():
            time.sleep(0.3)
            before = watched.steps(model.name)
            changed = model.swap()
            live = (watched.serves(model.name, model.version) - changed) / 1e9
            after = watched.steps(model.name)
            steps = {step: after[step] - before[step] for step in after}
            settling = steps.pop("settling", 0)
            return {"live": live, "live without settling": live - settling,
                    "steps without settling": sum(steps.values()), "steps": steps}

        swap()  # now each head follows a change of everything
        full, head = measuring.in_turn(swap, swap, sizes.head_pairs)
    print(f"\n### head: {model.bytes / 1e6:.0f} MB of {model.name}, "
          f"{model.head_bytes / 1e6:.1f} MB of them its last layer; {sizes.head_pairs} pairs, no "
          "load")
    rows, found = [], {"full": full, "head": head}
    for what in ("live", "live without settling", "steps without settling"):
        a, b = [swap[what] for swap in full], [swap[what] for swap in head]
        ratios = [2 * of_b / (before + after) for of_b, before, after in zip(b, a, a[1:])]
        same = [after / before for before, after in zip(a, a[1:])]
        rows.append([what, middle(a), middle(b), middle(ratios), middle(same)])
        found[what] = {"ratio": statistics.median(ratios)}
    steps = steps_taken([swap["steps"] for swap in full])
    for step in steps:
        a, b = ([swap["steps"][step] for swap in swaps] for swaps in (full, head))
        rows.append([step, middle(a, 4), middle(b, 4), "", ""])
    table(["seconds, median (middle half)", "everything changed", "last layer changed",
           "ratio", "everything against itself"], rows)
    aims.at_most("changed head / full change, without settling",
                 found["live without settling"]["ratio"], 0.15)
    return found


# Many swaps ---------------------------------------------------------------------------------------


def many_swaps(programs, sizes, folder, aims):
    model = swap_models.CountingModel(folder / "models", "tiny")
    still = swap_models.CountingModel(folder / "still", "tiny")
    os.sync()
    flags = ("--settle-time", "0")
    with measuring.sconce(programs, folder / "models", *flags) as server, \
            measuring.sconce(programs, folder / "still", *flags) as other:
        watched = Watched(server)
        watched.serves("tiny", 1)

        def window(of, path=folder / "window.records"):
            result = measuring.load(
                programs, of.address, of.pid, "tiny", "--rate", 1000, "--warmup", 0.2, "--duration",
                sizes.many_seconds, "--record", path)
            latency = windows.Latency.of(windows.latencies_ms(windows.read(path)))
            return {"p50": latency.p50, "processor": result["server_us_per_request"]}

        def measure():
            a, b = measuring.in_turn(lambda: window(other), lambda: window(server),
                                     sizes.many_pairs)
            return a, b, {"resident": watched.status_bytes("VmRSS"),
                          "anonymous": watched.status_bytes("RssAnon"),
                          "PSS": watched.pss_bytes()}

        def swap(times):
            for _ in range(times):
                model.swap()
                watched.serves("tiny", model.version)

        # The first ones make what later ones find.
        swap(max(2, sizes.many_swaps // 20))
        before = measure()
        with Load(programs, server, model, 1000, folder) as load:
            time.sleep(0.7)
            began = time.monotonic()
            swap(sizes.many_swaps)
            took = time.monotonic() - began
            records = load.stop()
        after = measure()
    found = {"swaps": sizes.many_swaps, "seconds": took, "requests": len(records),
             "failed": windows.failed(records), "mixed": windows.mixed(records, model)}
    print(f"\n### many: {sizes.many_swaps} swaps of the tiny model in {took:.0f} s beside 1,000 "
          f"requests/s, one processor for two servers")
    rows = []
    for key, title in (("p50", "p50, ms"), ("processor", "processor time, us per request")):
        relative, spreads = [], []
        for a, b, *_ in (before, after):
            of_a, of_b = [each[key] for each in a], [each[key] for each in b]
            relative.append([2 * y / (x + z) for y, x, z in zip(of_b, of_a, of_a[1:])])
            spreads.append([z / x for x, z in zip(of_a, of_a[1:])])
            rows.append([f"{title}, {'before' if len(relative) == 1 else 'after'}", middle(of_b),
                         middle(of_a), middle(relative[-1]), middle(spreads[-1])])
        found[key] = statistics.median(relative[1]) / statistics.median(relative[0])
    table(["", "server that swaps", "server that does not", "ratio", "the latter against itself"],
          rows)
    for kind, bytes_before in before[2].items():
        found[kind] = after[2][kind] / bytes_before
    table(["MiB", "before", "after"], [
        [kind, f"{bytes_before / MIB:.2f}", f"{after[2][kind] / MIB:.2f}"]
        for kind, bytes_before in before[2].items()])
    aims.at_most(f"failed of {found['requests']} requests beside {sizes.many_swaps} swaps",
                 found["failed"], 0)
    aims.at_most("mixed answers", found["mixed"], 0)
    aims.at_most("resident memory after / before", found["resident"], 1.01)
    aims.at_most("p50 after / before, against a server that swaps nothing", found["p50"], 1.02)
    return found


# Main ---------------------------------------------------------------------------------------------


def parts(text):
    chosen = text.split(",")
    if unknown := set(chosen) - set(PARTS):
        raise argparse.ArgumentTypeError(f"expected some of {','.join(PARTS)}, got "
                                         f"{','.join(sorted(unknown))}")
    return chosen


def main():
    parser = measuring.arguments(__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--parts", type=parts, default=PARTS, help="such as spare,head")
    parser.add_argument("--quick", action="store_true",
                        help="small models and few swaps, to show that it runs; the figures mean "
                             "nothing")
    parser.add_argument("--json", type=pathlib.Path, help="also write all that was found here")
    parser.add_argument("--folder", type=pathlib.Path,
                        help="where the models are written, some 5 GiB")
    options = parser.parse_args()
    programs = measuring.Programs(options.build)
    sizes = QUICK if options.quick else Sizes()
    measuring.print_machine()
    if options.quick:
        print("quick: its figures mean nothing")
    aims, found = Aims(), {}
    all_three = {"tiny": sizes.tiny_rate, sizes.resnet: None, "big": sizes.big_rate}
    alone = {"tiny": sizes.high_rate, "big": 0}

    def under_load(part, swaps, rates, **how):
        return lambda folder: swaps_under_load(part, programs, sizes, folder, aims, swaps, rates,
                                               **how)

    run = {
        "spare": under_load("spare", sizes.swaps, all_three, bound=1.1),
        "shared": under_load("shared", sizes.swaps, all_three, bound=2.0,
                             cpus=measuring.SERVER_CPU),
        "rate": under_load("rate", sizes.fewer_swaps, alone, bound=2.0, cpus=measuring.SERVER_CPU),
        "inplace": under_load("inplace", sizes.fewer_swaps, all_three,
                              config="swap { mode: IN_PLACE }\n"),
        "head": lambda folder: changed_head(programs, sizes, folder, aims),
        "many": lambda folder: many_swaps(programs, sizes, folder, aims),
    }
    for part in options.parts:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            found[part] = run[part](pathlib.Path(folder))
    missed = [aim for aim in aims.found if not aim["met"]]
    print(f"\n{len(aims.found) - len(missed)} of {len(aims.found)} aims met; load average at the "
          f"end {os.getloadavg()[0]:.2f}")
    if options.json:
        options.json.write_text(json.dumps(
            {"quick": options.quick, "aims": aims.found, "parts": found}, indent=1))


if __name__ == "__main__":
    main()
