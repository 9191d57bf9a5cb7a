"""Mutation score of one room of the package, with mutmut: a mutant is killed where one of the room's tests fails.

    python tools/mutation.py coding [--part 0.2]

Scores and survivors go to docs/mutants.json; a survivor keeps the verdict that stands beside it there. Left
alone: texts, what is raised, and what stands outside of functions. Decorated functions (properties, contexts, those
under ``torch.no_grad()``) are mutated too, which mutmut does not do by itself.
"""

import argparse
import gc
import json
import random
import shutil
import time
from datetime import date
from pathlib import Path

import libcst as cst
from mutmut import __main__ as mutmut
from mutmut.configuration import config
from mutmut.mutation import file_mutation, mutators
from mutmut.mutation.diff_apply import get_diff_for_mutant
from mutmut.mutation.trampoline import get_mutant_under_test
from mutmut.runners.harness import PytestRunner
from mutmut.state import state
from mutmut.stats import status_by_exit_code

RECORD = Path("docs/mutants.json")
STATIC = ("staticmethod", "classmethod")
SLOW = "elic2022 or mbt2018-vbr or attn or batch_of_videos or scale_space or compiled or crashes"
COMPILED = (
    "compilers or _shapes or graph_around or bits_compiles or inductor or export or transforms_c or opcheck or process"
)
ROOMS = {  # what is mutated, the tests that must notice, and those of them that take too long to be run for each mutant
    "coding": (["bitrate_ext/coding/*.py"], ["tests/coding"], f"{SLOW} or video"),
    "mapping": (["bitrate_ext/mapping/*.py"], ["tests/mapping", "tests/coding"], f"{SLOW} or damaged"),
    "models": (["bitrate_ext/models/adapter.py"], ["tests/mapping", "tests/coding"], SLOW),
    "ops": (["bitrate_ext/ops/*.py"], ["tests/ops"], COMPILED),
}


def adapt(part: float) -> None:
    """Fit mutmut to the project: what is mutated, and models that are made once, before the forks."""
    visitor, chance = file_mutation.MutationVisitor, random.Random(0)
    skip, create = visitor._skip_node_and_children, visitor._create_mutations
    arrange = file_mutation.function_trampoline_arrangement
    warm, run = PytestRunner.warm_up, PytestRunner.run_tests

    def skipped(self, node):
        if isinstance(node, cst.FunctionDef) and node.decorators:
            return node.name.value in file_mutation.NEVER_MUTATE_FUNCTION_NAMES
        return isinstance(node, cst.Raise) or strict(node) or skip(self, node)

    def strict(node):  # of zip: an assertion
        return isinstance(node, cst.Arg) and node.keyword is not None and node.keyword.value == "strict"

    def created(self, node):
        before = len(self.mutations)
        create(self, node)
        self.mutations[before:] = [
            one
            for one in self.mutations[before:]
            if chance.random() < part and not any(map(strict, set(node.children) - set(one.mutated_node.children)))
        ]

    def arranged(function, mutants, class_name):  # decorators go to what chooses the mutant
        start, (chooser, *copies), end, names = arrange(function, mutants, class_name)
        static = [one for one in function.decorators if getattr(one.decorator, "value", "") in STATIC]
        return start, [chooser, *(one.with_changes(decorators=static) for one in copies)], end, names

    def warmed(self):
        warm(self)
        import coded_models  # of tests/
        import zoo

        for name in zoo.SMALL:
            coded_models.model_of(name)
        gc.collect()
        gc.freeze()  # or each fork copies what it only looks at: 0.7 s instead of 0.1 s

    def ran(self, *, mutant_name, tests):  # quick tests first, and none without a mutant: all have just run
        if mutant_name is None and get_mutant_under_test() != "fail":
            return 0
        return run(self, mutant_name=mutant_name, tests=sorted(tests, key=state().duration_by_test.get))

    operators = mutators.mutation_operators
    operators[:] = [one for one in operators if one[1] is not mutators.operator_string]
    visitor._skip_node_and_children, visitor._create_mutations = skipped, created
    file_mutation.function_trampoline_arrangement = arranged
    PytestRunner.warm_up, PytestRunner.run_tests = warmed, ran


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("room", choices=ROOMS)
    parser.add_argument("--part", type=float, default=1.0, help="of the mutants, drawn at random")
    options = parser.parse_args()
    adapt(options.part)
    shutil.rmtree("mutants", ignore_errors=True)
    config().only_mutate, config().pytest_add_cli_args_test_selection, slow = ROOMS[options.room]
    config().pytest_add_cli_args += ["-k", f"not ({slow})"]
    start = time.monotonic()
    mutmut._run((), 2)
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    verdicts = {key: why for room in record.values() for key, why in room["survivors"].items()}
    counts, survivors = {}, {}
    for path in mutmut.walk_mutatable_files():
        data = mutmut.SourceFileMutationData(path=path)
        data.load()
        for name, code in data.exit_code_by_key.items():
            status = status_by_exit_code[code]
            counts[status] = counts.get(status, 0) + 1
            if status not in ("killed", "timeout", "segfault"):
                lines = [one for one in get_diff_for_mutant(name, path=path).splitlines()[2:] if one[:1] in "+-"]
                change = " ".join(f"{one[0]} {one[1:].strip()}" for one in lines)
                key = f"{name.partition('__mutmut')[0]}: {change}"
                survivors[key] = verdicts.get(key, "")
    minutes = round((time.monotonic() - start) / 60, 1)
    facts = {"date": str(date.today()), "minutes": minutes, "part": options.part}
    record[options.room] = {**facts, **counts, "survivors": survivors}
    RECORD.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    print(counts, *(key for key, why in survivors.items() if not why), sep="\n")


if __name__ == "__main__":
    main()
