"""PTX as C++, so that what nvcc makes of a kernel runs on the CPU, under the watch of the checking executor.

Each instruction becomes one statement over registers that are plain bits, ``add.rn.f64 %fd3, %fd1, %fd2;`` say
``fd3_ = bits_from(op_add_rn<f64>(Operand{fd1_}, Operand{fd2_}));``. What ``op_add_rn`` does stands in
``executor/ptx.h``; there is no other list of instructions, so one that is unknown, or has an unknown modifier, does not
compile, and the compiler names its line in the PTX. A statement of another form raises ``UnknownPtx`` here.

Each ``.entry`` becomes a function object of the kernel's own name, which takes what a launch gives to the kernel. The
sizes and alignments of that are held to the ``.param`` declarations when it compiles.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

TYPES = {
    "pred": "bool", "b8": "uint8_t", "b16": "uint16_t", "b32": "uint32_t", "b64": "uint64_t", "u8": "uint8_t",
    "u16": "uint16_t", "u32": "uint32_t", "u64": "uint64_t", "s8": "uint8_t", "s16": "uint16_t", "s32": "uint32_t",
    "s64": "uint64_t", "f16": "uint16_t", "f32": "uint32_t", "f64": "uint64_t",
}  # fmt: skip
SPECIAL = {"%tid.x": "thread.thread()", "%ntid.x": "thread.threads()", "%ctaid.x": "thread.block()"}
# A statement, or what stands for itself: a scope's brace, a label, a directive that says nothing of what is computed.
PIECE = re.compile(
    r"""\s*(?: (?P<label>[\w$]+): | (?P<scope>[{}])
    | (?P<hint>\.(?:version|target|address_size|maxntid|minnctapersm|pragma)\b[^\n]*\n)
    | (?P<entry>(?:\.visible\s+)?\.entry\s+(?P<name>\w+)\s*\((?P<params>[^)]*)\))
    | (?P<statement>[^;]+); | \Z )""",
    re.VERBOSE,
)
PARAM = re.compile(
    r"\.param\s+(?:\.align\s+(\d+)\s+)?\.(\w+)\s+(?:\.ptr\s+(?:\.(?:global|const|shared)\s+)?(?:\.align\s+\d+\s+)?)?"
    r"(\w+)(?:\[(\d+)\])?"
)
VARIABLE = re.compile(
    r"(?P<extern>\.extern\s+)?(?:\.visible\s+)?\.(?P<space>shared|const|global)\s+(?:\.align\s+(?P<align>\d+)\s+)?"
    r"\.(?P<type>\w+)\s+(?P<name>\w+)\s*(?:\[(?P<count>\d*)\])?\s*(?:=\s*\{?(?P<values>[^}]*)\}?)?"
)
INSTRUCTION = re.compile(
    r"(?:@(?P<not>!?)(?P<guard>%\w+)\s+)?(?P<opcode>[a-z][\w.]*)(?:\s+(?P<operands>.*))?", re.DOTALL
)


class UnknownPtx(Exception):
    """PTX of a form that has no translation."""


@dataclass(frozen=True)
class Change:
    """Another instruction for one of a kernel.

    Args:
        kernel: the kernel's name.
        pattern: a regular expression over its instructions, one a line with single spaces; ``%_`` is any register. Its
            first group is what is replaced, a part of one instruction or all of it.
        by: what stands there instead; may name groups.
        place: which of the places where the pattern is found.
    """

    kernel: str
    pattern: str
    by: str
    place: int = 0


@dataclass
class _Kernel:
    name: str
    parameters: dict[str, tuple[int, int]]  # bytes and alignment, by name
    widths: dict[str, str] = field(default_factory=dict)  # types of registers, by what their names begin with
    pieces: list[tuple[int, str, str]] = field(default_factory=list)  # line, kind of piece, text

    @functools.cached_property
    def code(self) -> str:
        """The text of the pieces, one a line."""
        return "\n".join(text if kind == "statement" else f"{text}:" for _, kind, text in self.pieces)


def _split(operands: str) -> list[str]:
    """Return operands; one in braces or brackets holds commas."""
    return [part.strip() for part in re.findall(r"(?:\{[^}]*\}|\[[^]]*\]|[^,])+", operands)]


def _elements(operand: str) -> list[str]:
    return [part.strip() for part in operand.strip("{} ").split(",")]


def _register(token: str) -> str:
    if not re.fullmatch(r"%?[A-Za-z]\w*", token):
        raise UnknownPtx(f"{token} is no register")
    return f"{token.lstrip('%')}_"


class _Translator:
    def __init__(self, kernel: _Kernel, symbols: dict[str, str], changes: dict[int, list[tuple[int, str]]]) -> None:
        self.kernel, self.changes, self.seen = kernel, changes, set[str]()
        self.symbols = symbols | {name: f"{index}ull << 32" for index, name in enumerate(kernel.parameters)}

    def operand(self, token: str) -> str:
        if token in SPECIAL:
            return f"Operand{{{SPECIAL[token]}}}"
        if found := re.fullmatch(r"0[dDfF]([0-9A-Fa-f]{8}|[0-9A-Fa-f]{16})", token):
            return f"Operand{{0x{found[1]}ull}}"
        if re.fullmatch(r"-?(?:0x[0-9A-Fa-f]+|\d+)U?", token):
            return f"Operand{{{int(token.rstrip('U'), 0) % 2**64}ull}}"
        if token in self.symbols:
            return f"Operand{{{self.symbols[token]}}}"
        return f"Operand{{{_register(token)}}}"

    def address(self, token: str) -> str:
        found = re.fullmatch(r"\[\s*(%?[\w$]+)\s*(?:\+\s*(-?\d+))?\s*\]", token)
        if not found:
            raise UnknownPtx(f"the address {token}")
        return f"{self.operand(found[1])}.bits + uint64_t({found[2] or 0}ll)"

    def access(self, modifiers: list[str], operands: list[str], store: bool) -> str:
        space, *rest = [name for name in modifiers if name != "nc"]
        count = {"v2": 2, "v4": 4}.get(rest[0], 1)
        (kind,) = rest[count > 1 :]
        memory, values = operands if store else reversed(operands)
        values = _elements(values)
        size = f"{len(values)} * sizeof({TYPES[kind]})"
        at = self.address(memory)
        places = {
            ("global", False): f"global(thread, {at}, {size})",
            ("global", True): f"thread.store({at}, {size})",
            ("shared", False): f"thread.shared(uint32_t({at}), {size}, false)",
            ("shared", True): f"thread.shared(uint32_t({at}), {size}, true)",
            ("param", False): f"parameter(parameters, {at}, {size})",
            ("const", False): f"constant({at}, {size})",
        }
        if (space, store) not in places or len(values) != count:
            raise UnknownPtx("such an access")
        moves = [
            f"put_element<{kind}>(at, {k}, {self.operand(value)});"
            if store
            else f"{_register(value)} = bits_from(element<{kind}>(at, {k}));"
            for k, value in enumerate(values)
        ]
        return f"{{ auto* at = {places[space, store]}; {' '.join(moves)} }}"

    def instruction(self, line: int, opcode: str, operands: list[str]) -> str:
        name, *modifiers = opcode.split(".")
        if opcode in ("bra", "bra.uni"):
            label = operands[0].replace("$", "L")
            turn = f"thread.turn({line}); " if label in self.seen else ""
            return f"{{ {turn}goto {label}; }}"
        if opcode == "ret":
            return "return;"
        if opcode in ("bar.sync", "barrier.sync") and operands == ["0"]:
            return f"thread.barrier({line});"
        if name in ("ld", "st"):
            return self.access(modifiers, operands, name == "st")
        if opcode in ("mov.b32", "mov.b64") and "{" in "".join(operands):
            width = int(modifiers[0][1:])
            parts = _elements(operands[operands[0][0] != "{"])
            each = width // len(parts)
            if operands[0][0] == "{":
                whole = f"{self.operand(operands[1])}.bits"
                return "".join(
                    f"{_register(part)} = {whole} >> {k * each};" for k, part in enumerate(parts) if part != "_"
                )
            joined = [f"({self.operand(part)}.bits & {2**each - 1}ull) << {k * each}" for k, part in enumerate(parts)]
            return f"{_register(operands[0])} = {' | '.join(joined)};"
        types = [part for part in modifiers if part in TYPES]
        function = "_".join(["op", name, *(part for part in modifiers if part not in TYPES)])
        given = ", ".join(self.operand(token) for token in operands[1:])
        return f"{_register(operands[0])} = bits_from({function}<{', '.join(types)}>({given}));"

    def statement(self, line: int, text: str) -> str:
        found = INSTRUCTION.fullmatch(text)
        if not found:
            raise UnknownPtx("such a statement")
        said = self.instruction(line, found["opcode"], _split(found["operands"] or ""))
        return f"if ({found['not']}{_register(found['guard'])}) {said}" if found["guard"] else said

    def declared(self, text: str) -> str:
        """Note registers of a kernel, which are declared where they are used; return those of a scope in it."""
        kind, names = re.fullmatch(r"\.reg\s+\.(\w+)\s+(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]
        if found := re.fullmatch(r"%(\w+)<\d+>", names):
            self.kernel.widths[found[1]] = TYPES[kind]
            return ""
        return " ".join(f"{TYPES[kind]} {_register(name)} = {TYPES[kind]}(open);" for name in _elements(names))

    def body(self, first_block: int) -> tuple[list[str], list[int]]:
        """Return statements, and the lines at which blocks begin."""
        out: list[str] = []
        blocks: list[int] = []
        fresh = True
        for index, (line, kind, text) in enumerate(self.kernel.pieces):
            try:
                if kind == "label":
                    self.seen.add(text.replace("$", "L"))
                    out.append(f"{text.replace('$', 'L')}:;")
                    fresh = True
                elif kind == "scope":
                    out.append(text)
                elif text.startswith(".reg"):
                    out.append(self.declared(text))
                else:
                    if fresh:
                        out.append(f"blocks[{first_block + len(blocks)}].reached = true;")
                        blocks.append(line)
                    fresh = "bra" in text
                    said = self.statement(line, text)
                    for number, changed in self.changes.get(index, []):
                        other = self.statement(line, changed) if changed else ""
                        said = f"if (planted == {number}) {{ {other} }} else {{ {said} }}"
                    out.append(f"#line {line}\n{said}")
            except (UnknownPtx, KeyError, ValueError, IndexError) as error:
                raise UnknownPtx(f"line {line}: {text}: {error}") from error
        return out, blocks

    def function(self, first_block: int) -> tuple[str, list[int]]:
        body, blocks = self.body(first_block)
        used = sorted(set(re.findall(r"\b([a-z]+)(\d+)_\b", "\n".join(body))))
        registers = [f"{self.kernel.widths[kind]} {kind}{number}_ = {self.kernel.widths[kind]}(open);"
                     for kind, number in used if kind in self.kernel.widths]  # fmt: skip
        layout = ", ".join(f"ptx::Declared<{size}, {align}>" for size, align in self.kernel.parameters.values())
        code = f"run_{self.kernel.name}"
        text = "\n".join([
            f"namespace ptx {{\nvoid {code}(Thread& thread, const Parameters& parameters) {{",
            "const uint64_t open = random_bits();", *registers, *body, "}\n}",
            f"const auto {self.kernel.name} = [](auto& ctx, const auto&... given) {{",
            f"ptx::Kernel<{layout}>{{&ptx::{code}}}(ctx, given...); }};",
        ])  # fmt: skip
        return text, blocks


def _name(symbol: str) -> str:
    """Return the kernel's name in the sources: the last of those that a mangled name is made of."""
    names, rest = [], symbol.removeprefix("_ZN").removeprefix("_Z")
    while symbol.startswith("_Z") and (found := re.match(r"(\d+)", rest)):
        size, rest = int(found[1]), rest[found.end() :]
        names.append(rest[:size])
        rest = rest[size:]
    return names[-1] if names else symbol


class Program:
    """The kernels of a PTX file.

    Raises:
        UnknownPtx: a statement has no translation.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.kernels: list[_Kernel] = []
        self.symbols: dict[str, str] = {}  # C++ of what they stand for
        self.tables: list[str] = []  # C++ that defines them
        text = re.sub(r"//[^\n]*", "", path.read_text())
        depth = at = line = 0
        while at < len(text):
            found = PIECE.match(text, at)
            if not found:
                raise UnknownPtx(f"at {text[at : at + 80]!r}")
            kind = found.lastgroup or ""
            start = found.start(kind) if kind else found.end()
            line, at = line + text.count("\n", at, start), start
            if found["entry"]:
                self._add_kernel(found["name"], found["params"])
            elif kind == "scope" and depth + (found["scope"] == "{") == 1:
                depth = int(found["scope"] == "{")
            elif kind in ("label", "scope", "statement") and depth:
                depth += {"{": 1, "}": -1}.get(found[kind], 0)
                self.kernels[-1].pieces.append((line + 1, kind, " ".join(found[kind].split())))
            elif kind == "statement":
                self._add_variable(found["statement"].strip())
            line, at = line + text.count("\n", at, found.end()), found.end()

    def _add_kernel(self, symbol: str, declared: str) -> None:
        parameters = {}
        for align, element, name, count in PARAM.findall(declared):
            size = int(re.sub(r"\D", "", element)) // 8
            parameters[name] = (size * int(count or 1), int(align or size))
        self.kernels.append(_Kernel(_name(symbol), parameters))

    def _add_variable(self, text: str) -> None:
        found = VARIABLE.fullmatch(text)
        if not found or (found["space"] == "shared") != bool(found["extern"]):
            raise UnknownPtx(text)
        name = found["name"]
        if found["extern"]:  # the block's dynamic memory, the only one that is shared
            self.symbols[name] = "0ull"
            return
        self.symbols[name] = f"reinterpret_cast<uint64_t>(table_{name})"
        values = re.sub(r"0[dDfF](?=[0-9A-Fa-f]{8})", "0x", found["values"] or "0")
        of = f"alignas({found['align'] or 1}) const {TYPES[found['type']]}"
        self.tables.append(
            f"{of} table_{name}[{found['count'] or 1}] = {{{values}}};\n"
            f"const bool known_{name} = (tables.push_back({{table_{name}, sizeof(table_{name})}}), true);"
        )

    def places(self, change: Change) -> list[re.Match[str]]:
        """Return where a change of its kernel may be made."""
        pattern = re.compile(change.pattern.replace("%_", r"%\w+"), re.MULTILINE)
        return [
            found for kernel in self.kernels if kernel.name == change.kernel for found in pattern.finditer(kernel.code)
        ]

    def _changed(self, kernel: _Kernel, change: Change) -> tuple[int, str]:
        """Return the index of the piece that changes, and its new text."""
        places = self.places(change)
        if change.place >= len(places):
            raise UnknownPtx(f"{change.pattern!r} is found in {len(places)} places of {kernel.name}")
        here = places[change.place]
        index = here.string.count("\n", 0, here.start(1))
        first, text = here.string.rfind("\n", 0, here.start(1)) + 1, kernel.pieces[index][2]
        return index, text[: here.start(1) - first] + here.expand(change.by) + text[here.end(1) - first :]

    def cpp(self, changes: Sequence[Change] = ()) -> str:
        """Return the kernels in C++; change k is made while ``planted`` is k + 1.

        Raises:
            UnknownPtx: an instruction has no translation, or there is no place for a change.
        """
        functions, blocks = [], []
        for kernel in self.kernels:
            changed: dict[int, list[tuple[int, str]]] = {}
            for number, change in enumerate(changes, 1):
                if change.kernel == kernel.name:
                    index, text = self._changed(kernel, change)
                    changed.setdefault(index, []).append((number, text))
            text, lines = _Translator(kernel, self.symbols, changed).function(len(blocks))
            functions.append(f'#line 1 "{self.path}"\n{text}')
            blocks += [f'{{"{kernel.name}", {line}}},' for line in lines]
        known = "const bool known = (blocks = std::vector<Block>{\n" + "\n".join(blocks) + "\n}, true);"
        return "\n".join(["namespace ptx {", *self.tables, known, "}", *functions, ""])
