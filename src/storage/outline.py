"""What a checkpoint would unpack to, read without unpacking it.

    check_outline(data)                 # ValueError where it would take more memory than the file has bytes

A zip archive can hold compressed entries, and a pickle can name storages that are larger than their entry, refer to one
list a million times, or call a function that allocates. torch.load follows all of it, also with weights_only=True. So
the archive's directory and the instructions of its pickle are read first, by a machine that builds nothing. Only what
`checkpoint.save` writes is allowed:

- entries that are not compressed, each under a name of its own, together no larger than the file
- tensors, each with a storage of its own that is exactly as large as its entry
- text, numbers, lists, tuples and dicts. Only texts and tensors may be referred to again

torch is not needed for it.
"""

from __future__ import annotations

import io
import math
import pickletools
import zipfile
from collections.abc import Iterator

ITEM_BYTES = {  # of the storages that a checkpoint may hold
    **dict.fromkeys(("torch ByteStorage", "torch CharStorage", "torch BoolStorage"), 1),
    **dict.fromkeys(("torch ShortStorage", "torch HalfStorage", "torch BFloat16Storage"), 2),
    **dict.fromkeys(("torch IntStorage", "torch FloatStorage"), 4),
    **dict.fromkeys(("torch LongStorage", "torch DoubleStorage", "torch ComplexFloatStorage"), 8),
    "torch ComplexDoubleStorage": 16,
    "torch.storage UntypedStorage": 1,  # of torch's newer dtypes, such as float8
}
TENSOR = {"torch._utils _rebuild_tensor_v2": 6, "torch._utils _rebuild_tensor_v3": 7}  # and how many arguments
EMPTY = "collections OrderedDict"
DTYPES = ("uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
GLOBALS = {*ITEM_BYTES, *TENSOR, EMPTY, *(f"torch {name}" for name in DTYPES)}
MOST_VALUES = 2_000_000
ITEMS = ("APPEND", "APPENDS", "SETITEM", "SETITEMS")


class Name(str):
    """A class or a function that the pickle names."""


class Storage(int):
    """The elements of a storage."""


def check_outline(data: bytes) -> None:
    """ValueError unless `data` is an archive whose content is as large as it says. The reason is its message."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if archive.start_dir != _directory_start(data):
                raise ValueError("its archive can be read in two ways")
            sizes = _entry_sizes(archive, len(data))
            pickles = [name for name in sizes if name.endswith("/data.pkl")]
            if len(pickles) != 1 or pickles[0].count("/") != 1:
                raise ValueError(f"it holds {len(pickles)} pickles, must hold one")
            pickled = archive.read(pickles[0])
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, EOFError) as error:
        raise ValueError(f"its archive is damaged ({type(error).__name__})") from error
    _Machine(pickled, sizes, pickles[0].removesuffix("data.pkl")).run(len(data))


def _directory_start(data: bytes) -> int:
    """Where the end record says that the directory begins. zipfile would also look right before the end record."""
    end = data.rfind(b"PK\x05\x06")
    start = int.from_bytes(data[end + 16 : end + 20], "little")
    if start < 0xFFFFFFFF:
        return start
    record = data.rfind(b"PK\x06\x06", 0, end)  # an archive of 4 GiB and more has its numbers there
    return int.from_bytes(data[record + 48 : record + 56], "little")


def _entry_sizes(archive: zipfile.ZipFile, limit: int) -> dict[str, int]:
    """{entry: its bytes}. ValueError for an entry that is compressed or there twice, and for more than the file has."""
    sizes: dict[str, int] = {}
    for entry in archive.infolist():
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size or entry.flag_bits & 1:
            raise ValueError("it has a compressed entry")
        if entry.filename in sizes:
            raise ValueError("it has two entries of one name")
        sizes[entry.filename] = entry.file_size
    if sum(sizes.values()) > limit:
        raise ValueError("it unpacks to more than the file has")
    return sizes


class _Machine:
    """Runs the instructions of a pickle with shapes in the place of values.

    On its stack are texts, ints, floats, Names, Storages, tuples, and the words "tensor", "list" and "dict" as Names.
    """

    def __init__(self, pickled: bytes, sizes: dict[str, int], folder: str):
        self.pickled, self.sizes, self.folder = pickled, sizes, folder
        self.stack: list = []
        self.marks: list[int] = []
        self.memo: dict[int, object] = {}
        self.used: set[str] = set()
        self.tensor_bytes = 0

    def run(self, limit: int) -> None:
        """ValueError where the pickle asks for more than the file has, or for anything but plain values."""
        n = 0
        try:
            for n, (name, argument) in enumerate(self._instructions(), 1):
                if n > MOST_VALUES:
                    raise ValueError(f"its pickle has more than {MOST_VALUES:,} instructions")
                self._do(name, argument)
        except (IndexError, KeyError, TypeError) as error:
            raise ValueError("its pickle is damaged") from error
        if self.tensor_bytes > limit:
            raise ValueError("its tensors are larger than the file")

    def _instructions(self) -> Iterator[tuple[str, object]]:
        for code, argument, _ in pickletools.genops(self.pickled):
            yield code.name, argument

    def _do(self, name: str, argument) -> None:
        stack = self.stack
        if name in ("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"):
            stack.append(str(argument))
        elif name in ("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"):
            stack.append(argument)
        elif name in ("NONE", "NEWTRUE", "NEWFALSE"):
            stack.append(None)
        elif name in ("EMPTY_LIST", "EMPTY_DICT"):
            stack.append(Name(name))
        elif name in ("EMPTY_TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"):
            n = int(name[-1]) if name[-1].isdigit() else 0
            stack.append(tuple(self._pop(n)))
        elif name == "MARK":
            self.marks.append(len(stack))
        elif name == "TUPLE":
            stack.append(tuple(self._pop(len(stack) - self.marks.pop())))
        elif name in ITEMS:
            self._pop({"APPEND": 1, "SETITEM": 2}.get(name) or len(stack) - self.marks.pop())
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            self._recall(self.memo[argument])
        elif name == "GLOBAL":
            if argument not in GLOBALS:
                raise ValueError(f"it holds more than plain values: {argument!r:.60}")
            stack.append(Name(argument))
        elif name == "BINPERSID":
            stack.append(self._storage(stack.pop()))
        elif name == "REDUCE":
            arguments = stack.pop()
            stack.append(self._call(stack.pop(), arguments))
        elif name not in ("PROTO", "STOP"):
            raise ValueError(f"its pickle has the instruction {name}")

    def _pop(self, n: int) -> list:
        if n > len(self.stack) or n < 0:
            raise IndexError
        at = len(self.stack) - n
        popped, self.stack[at:] = self.stack[at:], []
        return popped

    def _recall(self, value) -> None:
        """Refer to a value again. A container that could be would make a small file large."""
        if not isinstance(value, str) or value in ("EMPTY_LIST", "EMPTY_DICT"):
            raise ValueError("it refers to one value twice")
        self.stack.append(value)

    def _storage(self, description: tuple) -> Storage:
        """The storage that a persistent id describes: ("storage", its type, its entry, its device, its elements)."""
        _, kind, key, _, elements = description
        entry = f"{self.folder}data/{key}"
        if kind not in ITEM_BYTES or not isinstance(elements, int) or elements < 0 or not isinstance(key, str):
            raise ValueError("it has a storage of an unknown kind")
        if entry not in self.sizes or self.sizes[entry] != elements * ITEM_BYTES[kind]:
            raise ValueError("it has a storage of another size than its entry")
        if entry in self.used:
            raise ValueError("two of its tensors share a storage")
        self.used.add(entry)
        return Storage(self.sizes[entry])

    def _call(self, function, arguments: tuple):
        if function == EMPTY and arguments == ():
            return ()
        if not isinstance(function, Name) or len(arguments) != TENSOR.get(function):
            raise ValueError("it holds more than plain values: a call")
        storage, offset, size, stride = arguments[:4]
        if not isinstance(storage, Storage) or offset != 0 or not all(isinstance(n, int) and n >= 0 for n in size):
            raise ValueError("it has a tensor without a storage of its own")
        if stride != tuple(math.prod(max(n, 1) for n in size[i + 1 :]) for i in range(len(size))):
            raise ValueError("it has a tensor that is not contiguous")
        if math.prod(size) > storage:  # torch compares the bytes of contiguous tensors itself
            raise ValueError("it has a tensor that is larger than its storage")
        self.tensor_bytes += storage
        return Name("tensor")
