"""What a trace of torch's profiler says: self times by operator and by group, folded stacks, and bytes held over time.

The Chrome trace (JSON) is the one output that is the same in all versions of the profiler. `key_averages` mixes Python
frames into its table, and `export_stacks` is empty without an experimental setting. So everything is read from the
trace, and a trace written by hand can test it.

    trace = json.load(open("trace.json"))
    operators(trace, own=frozenset())        # per operator: group, calls per step and ms in each step
    folded_stacks(trace)                     # "train.py(3): main;aten::mm 51200" lines, for speedscope or flamegraph.pl
    allocations(trace, "cpu")                # [(ms, bytes held), ...]

Times in a trace are microseconds. No torch here.
"""

from __future__ import annotations

import bisect
import statistics
from collections import Counter, defaultdict
from dataclasses import dataclass, field

GROUPS = ("matrix products", "elementwise", "normalisation", "scan and own ops", "optimiser", "data movement", "other")
OUTSIDE = "outside operators"
OPERATORS = ("cpu_op", "user_annotation")
FRAMES = ("python_function", *OPERATORS)
DEVICE_WORK = ("kernel", "gpu_memcpy", "gpu_memset")
STEP = "ProfilerStep#"
PROFILER_FILES = ("torch/profiler/", "torch/autograd/profiler.py")
DEVICE_TYPES = {"cpu": 0, "cuda": 1}  # c10::DeviceType, as the trace numbers it

# Names without "aten::", without underscores at either end and without "_backward". Sums, softmax and losses count as
# elementwise, because they read their input once or twice. Views count as data movement: they
# move nothing, but take time.
NAMES = {
    "matrix products": (
        "mm addmm bmm baddbmm addbmm matmul linear dot mv addmv ger outer einsum convolution conv1d conv2d "
        "mkldnn_convolution slow_conv2d thnn_conv2d cudnn_convolution linalg_solve_triangular "
        "triangular_solve scaled_mm grouped_mm int_mm"
    ),
    "normalisation": (
        "layer_norm native_layer_norm fused_layer_norm rms_norm fused_rms_norm group_norm native_group_norm "
        "batch_norm native_batch_norm"
    ),
    "scan and own ops": (
        "cumsum cumprod logcumsumexp cummax lstm gru rnn_tanh lstm_cell gru_cell mkldnn_rnn_layer cudnn_rnn "
        "thnn_fused_lstm_cell thnn_fused_gru_cell scaled_dot_product_attention "
        "scaled_dot_product_attention_math"
    ),
    "optimiser": (
        "fused_adamw fused_adam fused_sgd linalg_vector_norm amp_foreach_non_finite_check_and_unscale amp_update_scale"
    ),
    "data movement": (
        "copy to to_copy clone contiguous cat stack index index_select gather scatter scatter_add embedding "
        "embedding_dense embedding_renorm index_put index_put_impl index_add index_copy fill zero zeros "
        "zeros_like ones ones_like full full_like empty empty_like empty_strided new_zeros new_empty "
        "new_empty_strided new_full resize resize_as t transpose numpy_t view view_as unsafe_view reshape "
        "reshape_alias expand expand_as slice select select_scatter slice_scatter as_strided unsqueeze "
        "squeeze permute unbind split split_with_sizes chunk narrow detach alias unfold lift_fresh flatten "
        "unflatten movedim swapaxes nonzero masked_select local_scalar_dense item pad constant_pad_nd arange "
        "repeat tile roll flip tril triu set_ diagonal diag_embed pin_memory slice_copy efficientzerotensor"
    ),
    "elementwise": (
        "add sub mul div neg exp exp2 expm1 log log1p log2 sqrt rsqrt reciprocal pow square abs sign sin cos "
        "tanh sigmoid log_sigmoid softplus silu gelu relu elu threshold clamp clamp_min clamp_max minimum "
        "maximum where masked_fill eq ne lt le gt ge isfinite isnan isinf any all logical_and logical_or "
        "logical_not bitwise_and bitwise_not addcmul addcdiv lerp add_relu rsub sum mean max min amax amin "
        "argmax std var norm prod logsumexp softmax log_softmax cross_entropy cross_entropy_loss nll_loss "
        "nll_loss_nd nll_loss_forward dropout native_dropout bernoulli floor round trunc remainder fmod "
        "sigmoid_ tanh_ erf"
    ),
}
GROUP_OF_NAME = {name: group for group, names in NAMES.items() for name in names.split()}
PREFIXES = {
    "foreach_": "optimiser",
    "fused_adam": "optimiser",
    "scaled_dot_product": "scan and own ops",
    "flash_attention": "scan and own ops",
    "efficient_attention": "scan and own ops",
    "cudnn_rnn": "scan and own ops",
    "mkldnn_rnn": "scan and own ops",
}


@dataclass
class Span:
    """One timed range of a thread.  parent: the range around it.  self_us: its time without the ranges inside it."""

    name: str
    category: str
    thread: int | str
    start: float
    duration: float
    parent: Span | None
    external_id: int | None = None
    self_us: float = field(default=0.0)

    @property
    def end(self) -> float:
        return self.start + self.duration

    def ancestors(self):
        """The range itself and all around it, from the inside out."""
        span = self
        while span is not None:
            yield span
            span = span.parent


def spans(trace: dict, categories=OPERATORS) -> list[Span]:
    """The ranges of these categories, nested by thread and time, with their self times.

    Raises ValueError for a trace without any event.
    """
    events = trace.get("traceEvents") if isinstance(trace, dict) else None
    if not events:
        raise ValueError("trace: got no traceEvents, allowed: what torch.profiler's export_chrome_trace writes")
    threads = defaultdict(list)
    for event in events:
        if event.get("ph") == "X" and event.get("cat") in categories:
            threads[event.get("pid"), event.get("tid")].append(event)
    return [span for thread, found in threads.items() for span in _nested(thread, found)]


def _nested(thread, events) -> list[Span]:
    result, open_spans = [], []
    for event in sorted(events, key=lambda e: (float(e["ts"]), -float(e["dur"]))):
        start, duration = float(event["ts"]), float(event["dur"])
        while open_spans and open_spans[-1].end <= start:
            open_spans.pop()
        parent = open_spans[-1] if open_spans else None
        if parent is not None:  # times are rounded, so a child may end a nanosecond after its parent
            duration = min(duration, parent.end - start)
            parent.self_us -= duration
        span = Span(
            str(event["name"]),
            event["cat"],
            thread,
            start,
            duration,
            parent,
            (event.get("args") or {}).get("External id"),
            duration,
        )
        result.append(span)
        open_spans.append(span)
    return result


def group_of(name: str) -> str:
    """The group of an operator by its name alone."""
    if name.startswith("Optimizer."):
        return "optimiser"
    if name.startswith(("Memcpy", "Memset")):
        return "data movement"
    if not name.startswith("aten::"):
        return "other"
    bare = name.removeprefix("aten::").strip("_").removesuffix("_backward").removesuffix("_backward_data").strip("_")
    if bare in GROUP_OF_NAME:
        return GROUP_OF_NAME[bare]
    return next((group for prefix, group in PREFIXES.items() if bare.startswith(prefix)), "other")


def _group(span: Span, own) -> str:
    """The group of an operator; one that runs inside the optimiser or inside an own autograd function belongs to it."""
    for around in span.ancestors():
        if around.name.startswith("Optimizer."):
            return "optimiser"
        if around.name in own:
            return "scan and own ops"
    return group_of(span.name)


def own_names(functions) -> frozenset[str]:
    """The names under which autograd functions (their classes' names) appear in a trace, forward and backward."""
    return frozenset(
        n
        for name in functions
        for n in (name, f"{name}Backward", f"autograd::engine::evaluate_function: {name}Backward")
    )


def step_windows(trace: dict) -> list[tuple[float, float]]:
    """(start, end) of the steps that the trace holds, in order."""
    found = {(span.name, span.start, span.end) for span in spans(trace) if span.name.startswith(STEP)}
    return sorted((start, end) for _, start, end in found)


def operators(trace: dict, own=frozenset()) -> list[dict]:
    """Self time of every operator in each step of the trace, the slowest first.

    own: names of the project's autograd functions (`own_names`).
    Returns [{"name", "group", "calls" (per step), "ms" (one number per step)}]. The last entry is OUTSIDE, the rest of
    each step. On a CPU the time of an operator is that in which it ran itself. If the trace has kernels of a device, it
    is the time of the kernels that the operator launched, and OUTSIDE is the time without any kernel.
    Raises ValueError for a trace without steps.
    """
    windows = step_windows(trace)
    if not windows:
        raise ValueError(
            f"trace: got no range called {STEP}N, allowed: a trace recorded with a schedule and step() after each step"
        )
    charged = _device_times(trace) or _host_times(trace)
    starts = [start for start, _ in windows]
    times: dict = defaultdict(lambda: [0.0] * len(windows))
    calls, groups, used = Counter(), {}, [0.0] * len(windows)
    for span, us in charged:
        step = bisect.bisect_right(starts, span.start) - 1
        if step < 0 or span.start >= windows[step][1]:
            continue
        group = _group(span, own)
        key = (span.name, group)
        times[key][step] += us / 1e3
        used[step] += us / 1e3
        calls[key] += 1
        groups[key] = group
    table = [
        {"name": name, "group": group, "calls": calls[name, group] / len(windows), "ms": values}
        for (name, group), values in times.items()
    ]
    table.sort(key=lambda entry: (-statistics.median(entry["ms"]), entry["name"]))
    rest = [max(0.0, (end - start) / 1e3 - used[step]) for step, (start, end) in enumerate(windows)]
    return [*table, {"name": OUTSIDE, "group": OUTSIDE, "calls": 1.0, "ms": rest}]


def _host_times(trace: dict) -> list[tuple[Span, float]]:
    """(operator, its own microseconds) on the CPU; the ranges that mark steps are left out."""
    return [(span, span.self_us) for span in spans(trace) if not span.name.startswith(STEP)]


def _device_times(trace: dict) -> list[tuple[Span, float]]:
    """(operator, microseconds of one kernel that it launched); empty without kernels.

    A kernel that no operator launched is an entry of its own.
    """
    work = [e for e in trace["traceEvents"] if e.get("ph") == "X" and e.get("cat") in DEVICE_WORK]
    launchers = (
        {
            span.external_id: span
            for span in spans(trace)
            if span.external_id is not None and not span.name.startswith(STEP)
        }
        if work
        else {}
    )
    result = []
    for event in work:
        span = launchers.get((event.get("args") or {}).get("External id"))
        if span is None:
            span = Span(str(event["name"]), event["cat"], None, float(event["ts"]), float(event["dur"]), None)
        result.append((span, float(event["dur"])))
    return result


def by_group(table: list[dict]) -> dict[str, list[float]]:
    """{group: milliseconds in each step} of the entries of `operators`, in the order of GROUPS, OUTSIDE last."""
    steps = len(table[0]["ms"])
    sums = {name: [0.0] * steps for name in (*GROUPS, OUTSIDE)}
    for entry in table:
        for step, ms in enumerate(entry["ms"]):
            sums[entry["group"]][step] += ms
    return sums


def folded_stacks(trace: dict) -> list[str]:
    """'outer;inner nanoseconds' lines, sorted: the self time of every stack of Python frames and operators.

    The profiler's own frames are left out.
    """
    weights: Counter = Counter()
    for span in spans(trace, FRAMES):
        stack = [around.name for around in span.ancestors()][::-1]
        if not any(name.startswith(PROFILER_FILES) for name in stack):
            weights[";".join(" ".join(name.replace(";", ",").split()) for name in stack)] += round(span.self_us * 1e3)
    return [f"{stack} {weight}" for stack, weight in sorted(weights.items()) if weight > 0]


def allocations(trace: dict, device_type: str) -> list[tuple[float, int]]:
    """(milliseconds since the first one, bytes held) after every allocation and release on devices of this type.

    Only memory that was allocated while recording counts. A release of older memory, such as the gradients of the step
    before, changes nothing. So the highest value is the peak above the bytes held before. Allocations of other
    libraries, such as NumPy's arrays, are not recorded.
    """
    wanted = DEVICE_TYPES[device_type]
    events = [
        e
        for e in trace.get("traceEvents", ())
        if e.get("name") == "[memory]" and e["args"].get("Device Type") == wanted
    ]
    events.sort(key=lambda e: float(e["ts"]))
    held: dict = {}
    total, points = 0, []
    for event in events:
        size, address = int(event["args"]["Bytes"]), event["args"].get("Addr")
        if size > 0:
            held[address] = size
            total += size
        else:
            total -= held.pop(address, 0)
        points.append(((float(event["ts"]) - float(events[0]["ts"])) / 1e3, total))
    return points


def thinned(points: list[tuple[float, int]], most: int = 2000) -> list[tuple[float, int]]:
    """At most about `most` points of a curve; the highest and the lowest point of each part are kept."""
    if len(points) <= most:
        return points
    size = -(-2 * len(points) // most)
    kept = []
    for at in range(0, len(points), size):
        part = points[at : at + size]
        kept += sorted({max(part, key=lambda p: p[1]), min(part, key=lambda p: p[1])})
    return kept
