"""Reading checkpoints: against bare system calls on the same bytes, against torch.load, from the disk,
and what opening a large one takes."""

import ctypes
import json
import pathlib
import statistics
import subprocess
import tempfile
import time

import torch

import measuring

GIB = 1 << 30
THREADS = (1, 2)


class Reader:
    """One checkpoint in a process that reads it in the ways it is told."""

    def __init__(self, programs, path):
        self.process = subprocess.Popen(
            [programs.read_bench, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, way):
        print(way, file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("error: sconce_read_bench ended; see its message above.")
        return line.split()

    def rates(self, way):
        wall, processor, size = map(float, self.ask(way))
        return {"second": size / 1e9 / wall, "processor second": size / 1e9 / max(processor, 1e-6)}

    def cold_rates(self, way):
        self.ask("drop")
        return {"second": self.rates(way)["second"]}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait(measuring.PATIENCE)


def tensors(count, total_bytes):
    each = total_bytes // 4 // count
    return {f"layers.{i}.weight": torch.full((each,), float(i)) for i in range(count)}


def save_hollow(count, total_bytes, path):
    """What torch.save writes, with holes where the tensors' bytes belong."""
    each = total_bytes // 4 // count
    state = {f"layers.{i}.weight": torch.empty(each) for i in range(count)}
    with torch.serialization.skip_data():
        torch.save(state, path)


def save_hollow_safetensors(count, total_bytes, path):
    each = total_bytes // count // 4 * 4
    header = json.dumps({
        f"layers.{i}.weight": {"dtype": "F32", "shape": [each // 4],
                               "data_offsets": [i * each, (i + 1) * each]}
        for i in range(count)}).encode()
    with open(path, "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + count * each)


def compare(reader, title, a, b, pairs, rates="rates"):
    measure = getattr(reader, rates)
    for way in (a, b):
        measure(way)
    measuring.print_comparison(title, "GB", a, b, *measuring.in_turn(
        lambda: measure(a), lambda: measure(b), pairs))


def copy_into(path, parameters):
    # As in a process that loads for the first time: its memory is not there yet.
    ctypes.CDLL(None).malloc_trim(0)
    start, processor = time.perf_counter(), time.process_time()
    state = torch.load(path, map_location="cpu", weights_only=True)
    for name, parameter in parameters.items():
        parameter.copy_(state[name])
    return {"second": GIB / 1e9 / (time.perf_counter() - start),
            "processor second": GIB / 1e9 / (time.process_time() - processor)}


def compare_with_torch(reader, path, options):
    default = torch.get_num_threads()
    parameters = {name: torch.ones_like(tensor) for name, tensor in torch.load(path).items()}
    for threads in sorted({1, default}):
        torch.set_num_threads(threads)
        copy_into(path, parameters)
        for way in ("read 1", "read 0"):
            measuring.print_comparison(
                f"torch.load and copy_ with {threads} threads, warm", "GB", "torch", way,
                *measuring.in_turn(lambda: copy_into(path, parameters),
                                   lambda way=way: reader.rates(way), options.pairs))
    torch.set_num_threads(default)


def show_opening(programs, title, path, pairs):
    with Reader(programs, path) as reader:
        warm = [[float(x) for x in reader.ask("open")] for _ in range(pairs)]
        cold = []
        for _ in range(pairs):
            reader.ask("drop")
            cold.append([float(x) for x in reader.ask("open")])
    seconds, asked, _, heap = (statistics.median(column) for column in zip(*warm))
    print(f"{title}: {seconds * 1e3:.2f} ms ({min(w[0] for w in warm) * 1e3:.2f}-"
          f"{max(w[0] for w in warm) * 1e3:.2f}), cold "
          f"{statistics.median(c[0] for c in cold) * 1e3:.1f} ms; {asked / 1024:.0f} KiB asked for, "
          f"{statistics.median(c[2] for c in cold) / 1024:.0f} KiB from the disk; "
          f"{heap / 1024:.0f} KiB of memory", flush=True)


def main():
    parser = measuring.arguments(__doc__)
    parser.add_argument("--pairs", type=int, default=12, help="runs of each kind")
    parser.add_argument("--folder", type=pathlib.Path,
                        help="where the files are written, some 4 GiB; decides the disk measured")
    options = parser.parse_args()
    programs = measuring.Programs(options.build)
    measuring.print_machine()

    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        folder = pathlib.Path(folder)
        few, many, transposed = folder / "few.pth", folder / "many.pth", folder / "transposed.pth"
        torch.save(tensors(100, GIB), few)
        torch.save(tensors(10_000, GIB), many)
        torch.save({str(i): torch.full((8192, 8192), float(i)).t() for i in range(2)}, transposed)
        digest = subprocess.run(["sha256sum", few.name], cwd=folder, check=True,
                                capture_output=True, text=True).stdout
        (folder / f"{few.name}.sha256").write_text(digest)

        with Reader(programs, few) as reader:
            compare(reader, "100 tensors, 1 GiB, warm", "bare", "read 1", options.pairs)
            for way in ("each", "hash 1", "crc 1", "sha256 1", "read 2", "hash 2"):
                compare(reader, "100 tensors, 1 GiB, warm", "read 1", way, options.pairs)
            compare_with_torch(reader, few, options)
            for against in ("direct 1", "direct 4", "ahead"):
                for threads in THREADS:
                    compare(reader, "100 tensors, 1 GiB, from the disk", against,
                            f"read {threads}", options.pairs, "cold_rates")
            with Reader(programs, many) as other:
                compare(other, "10,000 tensors, 1 GiB, warm", "bare", "read 1", options.pairs)
                compare(other, "10,000 tensors, 1 GiB, warm", "each", "read 1", options.pairs)
                for way in ("read 1", "hash 1"):
                    measuring.print_comparison(
                        f"{way}: 10,000 tensors against 100, 1 GiB, warm", "GB", "100", "10,000",
                        *measuring.in_turn(lambda way=way: reader.rates(way),
                                           lambda way=way: other.rates(way), options.pairs))
        with Reader(programs, transposed) as reader:
            compare(reader, "2 transposed tensors of 256 MiB, warm", "bare", "read 1",
                    options.pairs)

        print("\nMemory beyond the destination, first read of a process")
        for path in (few, many, transposed):
            for threads in THREADS:
                with Reader(programs, path) as reader:
                    peak = int(reader.ask(f"peak {threads}")[0])
                print(f"{path.stem}, {threads} threads: {peak / 2**20:.2f} MiB")

        print("\nOpening and listing")
        show_opening(programs, "100 tensors, 1 GiB, torch.save", few, options.pairs)
        for count in (300, 1000):
            path = folder / f"hollow{count}.pth"
            save_hollow(count, 5 * GIB, path)
            show_opening(programs, f"{count} tensors, 5 GiB, torch.save", path, options.pairs)
            path = folder / f"hollow{count}.safetensors"
            save_hollow_safetensors(count, 5 * GIB, path)
            show_opening(programs, f"{count} tensors, 5 GiB, safetensors", path, options.pairs)


if __name__ == "__main__":
    main()
