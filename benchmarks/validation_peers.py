"""The checks of validate-data as a user would write them with other packages, for `data_validation.py`.

    PEER_PYTHON benchmarks/validation_peers.py PEER RULES.json OUTPUT

It runs in an environment of its own, without Gauntlet. Its last line is JSON: the `seconds` without Python's
start and the imports, the number of rows that each check `found`, and the `similar` rows by check, each as
[file, line]. Rows without a text or with a label that is not known count in their own check and in
`encoding`, `text_length` where they have a text, and in no later one.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

SPLITS = ("train", "validation", "test")
HELD_OUT = {"train": ("test", "validation"), "validation": ("test",), "test": ()}
FAULT = "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f�]"
PERMUTATIONS, SCHEME = 128, "affine32"
MAX_UNKNOWN_SHARE = 0.3
MIN_ROWS, MAX_RATIO = 10, 20.0
TEXTS_AT_ONCE = 1_000


class Rules:
    """The content of rules.json."""

    def __init__(self, path: Path) -> None:
        content = json.loads(path.read_text())
        self.folder = Path(content["dataset"]["uri"])
        self.labels = content["dataset"]["labels"]
        self.max_chars = content["max_chars"]
        self.max_tokens = content["max_tokens"]
        self.similarity = content["similarity"]
        self.tokenizer = content["tokenizer"]


def normalise(text: str) -> str:
    """Lower case, without punctuation and control characters, single spaces."""
    text = re.sub(f"{FAULT}|'", "", text.casefold())
    return " ".join(re.sub(r"[^\w\s]|_", " ", text).split())


# --- what no peer has of its own ---------------------------------------------------------------------


def count_tokens(texts: list[str], rules: Rules) -> dict[str, int]:
    """Rows that the encoder cuts, and rows of which it does not know much."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(rules.tokenizer)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    unknown = tokenizer.token_to_id("[UNK]")
    cut = strange = 0
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        for encoding in tokenizer.encode_batch_fast(
            texts[start : start + TEXTS_AT_ONCE], add_special_tokens=False
        ):
            cut += len(encoding.ids) + 2 > rules.max_tokens
            strange += encoding.ids.count(unknown) > MAX_UNKNOWN_SHARE * max(1, len(encoding.ids))
    return {"context_length": cut, "unknown_tokens": strange}


def find_similar(
    splits: list[str], keys: list[str], rules: Rules, signatures: list[Any] | None = None
) -> dict[str, list[int]]:
    """Positions of near-duplicates within a split and of leaks, by MinHashLSH; candidates are verified."""
    from datasketch import MinHash, MinHashLSH

    words = [frozenset(key.split()) for key in keys]
    if signatures is None:
        signatures = [signature(key) for key in keys]
    hashes = [
        MinHash(num_perm=PERMUTATIONS, hashvalues=values, seed=1, scheme=SCHEME) for values in signatures
    ]

    def alike(one: int, other: int) -> bool:
        shared = len(words[one] & words[other])
        union = len(words[one]) + len(words[other]) - shared
        return keys[one] == keys[other] or (union > 0 and shared / union >= rules.similarity - 1e-9)

    def index() -> MinHashLSH:
        return MinHashLSH(threshold=rules.similarity, num_perm=PERMUTATIONS)

    kept = {split: index() for split in SPLITS}
    kept_keys: set[tuple[str, str]] = set()
    near = []
    for row, split in enumerate(splits):
        if (split, keys[row]) in kept_keys:
            continue
        if any(alike(row, other) for other in kept[split].query(hashes[row])):
            near.append(row)
            continue
        kept_keys.add((split, keys[row]))
        kept[split].insert(row, hashes[row])
    everything = {split: index() for split in SPLITS}
    for row, split in enumerate(splits):
        if split != "train":
            everything[split].insert(row, hashes[row])
    leaks = [
        row
        for row, split in enumerate(splits)
        if any(alike(row, other) for held in HELD_OUT[split] for other in everything[held].query(hashes[row]))
    ]
    return {"near_duplicates": near, "leakage": leaks}


def signature(key: str) -> Any:
    """The MinHash values of a text's words."""
    from datasketch import MinHash

    made = MinHash(num_perm=PERMUTATIONS, seed=1, scheme=SCHEME)
    made.update_batch([word.encode() for word in set(key.split())])
    return made.hashvalues


def count_classes(splits: list[str], labels: list[str], rules: Rules) -> dict[str, int]:
    """Rows of classes with too few rows in a split, and of training classes that are too small."""
    counts = Counter(zip(splits, labels, strict=True))
    few = [counts[split, label] for split in SPLITS for label in rules.labels]
    train = [counts["train", label] for label in rules.labels]
    return {
        "rows_per_class": sum(rows for rows in few if rows < MIN_ROWS),
        "class_balance": sum(rows for rows in train if max(train) > MAX_RATIO * rows),
    }


# --- peers -------------------------------------------------------------------------------------------


def read_frame(rules: Rules) -> Any:
    """All rows with `text`, `label`, `split` and `line`."""
    import pandas as pd

    frames = []
    for split in SPLITS:
        frame = pd.read_csv(rules.folder / f"{split}.csv", dtype="str", keep_default_na=False, na_values=[""])
        frames.append(frame.assign(split=split, line=range(2, len(frame) + 2)))
    return pd.concat(frames, ignore_index=True)


def rest_of_frame(frame: Any, rules: Rules, found: dict[str, int]) -> dict[str, list[tuple[str, int]]]:
    """The checks after those on single values, on the usable rows of a frame with `key`."""
    found |= count_tokens(frame["text"].tolist(), rules)
    found |= count_classes(frame["split"].tolist(), frame["label"].tolist(), rules)
    similar = find_similar(frame["split"].tolist(), frame["key"].tolist(), rules)
    files, lines = frame["split"].tolist(), frame["line"].tolist()
    return {check: [(f"{files[row]}.csv", lines[row]) for row in rows] for check, rows in similar.items()}


def pandera(rules: Rules, output: Path) -> tuple[dict[str, int], Any]:  # noqa: ARG001
    """pandera's schema on pandas, lazily, so that all failures are reported."""
    from pandera.errors import SchemaErrors
    from pandera.pandas import Check, Column, DataFrameSchema

    frame = read_frame(rules)
    of_values = DataFrameSchema(
        {
            "text": Column(
                "str",
                Check(lambda texts: ~texts.str.contains(FAULT, regex=True), name="encoding"),
                nullable=True,
            ),
            "label": Column(
                "str",
                Check(lambda labels: labels.isin(rules.labels), name="unknown_labels"),
                nullable=True,
            ),
        },
        checks=[
            Check(lambda rows: rows["text"].notna() & rows["label"].notna(), name="empty_values"),
        ],
    )
    found = dict.fromkeys(("encoding", "empty_values", "unknown_labels"), 0)
    try:
        of_values.validate(frame, lazy=True)
    except SchemaErrors as errors:
        cases = errors.failure_cases.drop_duplicates(["check", "index"])
        found |= {
            "encoding": int((cases["check"] == "encoding").sum()),
            "empty_values": int((cases["check"] == "empty_values").sum()),
            "unknown_labels": int(
                frame.loc[cases.loc[cases["check"] == "unknown_labels", "index"], "text"].notna().sum()
            ),
        }
    usable = frame[frame["text"].notna() & frame["label"].isin(rules.labels)]
    usable = usable.assign(key=[normalise(text) for text in usable["text"]])
    of_rows = DataFrameSchema(
        checks=[
            Check(lambda rows: rows["text"].str.len().between(1, rules.max_chars), name="text_length"),
            Check(
                lambda rows: rows.groupby("key")["label"].transform("nunique") == 1, name="conflicting_labels"
            ),
            Check(lambda rows: ~rows.duplicated(["split", "key", "label"]), name="exact_duplicates"),
        ]
    )
    found |= {"text_length": 0, "conflicting_labels": 0, "exact_duplicates": 0}
    try:
        of_rows.validate(usable, lazy=True)
    except SchemaErrors as errors:
        cases = errors.failure_cases.drop_duplicates(["check", "index"])
        found |= {str(check): int(count) for check, count in cases["check"].value_counts().items()}
    return found, rest_of_frame(usable, rules, found)


def great_expectations(rules: Rules, output: Path) -> tuple[dict[str, int], Any]:  # noqa: ARG001
    """Great Expectations where it has an expectation, pandas for conflicting labels."""
    import great_expectations as gx
    from great_expectations import expectations as gxe

    frame = read_frame(rules)
    context = gx.get_context(mode="ephemeral")
    asset = context.data_sources.add_pandas("pandas").add_dataframe_asset("rows")
    batch = asset.add_batch_definition_whole_dataframe("all")

    def unexpected(rows: Any, expectations: dict[str, Any]) -> dict[str, int]:
        suite = gx.ExpectationSuite(
            name=f"suite{len(expectations)}", expectations=list(expectations.values())
        )
        result = batch.get_batch({"dataframe": rows}).validate(
            suite, result_format={"result_format": "SUMMARY"}
        )
        return {
            check: int(one.result["unexpected_count"])
            for check, one in zip(expectations, result.results, strict=True)
        }

    found = unexpected(
        frame,
        {
            "encoding": gxe.ExpectColumnValuesToNotMatchRegex(column="text", regex=FAULT),
            "empty_values": gxe.ExpectColumnValuesToNotBeNull(column="text"),
        },
    )
    found |= unexpected(
        frame[frame["text"].notna()],
        {
            "unknown_labels": gxe.ExpectColumnValuesToBeInSet(column="label", value_set=rules.labels),
        },
    )
    usable = frame[frame["text"].notna() & frame["label"].isin(rules.labels)]
    usable = usable.assign(key=[normalise(text) for text in usable["text"]])
    found |= unexpected(
        usable,
        {
            "text_length": gxe.ExpectColumnValueLengthsToBeBetween(
                column="text", min_value=1, max_value=rules.max_chars
            )
        },
    )
    copies = usable.duplicated(["split", "key", "label"])
    unexpected(
        usable,
        {
            "unique": gxe.ExpectCompoundColumnsToBeUnique(column_list=["split", "key", "label"]),
            "length": gxe.ExpectColumnValueLengthsToBeBetween(column="key", min_value=1, max_value=10**6),
        },
    )
    found["exact_duplicates"] = int(copies.sum())  # the expectation counts the first row of the copies too
    found["conflicting_labels"] = int((usable.groupby("key")["label"].transform("nunique") > 1).sum())
    return found, rest_of_frame(usable, rules, found)


def datasets(rules: Rules, output: Path) -> tuple[dict[str, int], Any]:
    """A pipeline of Hugging Face `datasets`: columns and signatures by `map` in two processes."""
    from datasets import concatenate_datasets, load_dataset

    files = {split: str(rules.folder / f"{split}.csv") for split in SPLITS}
    loaded = load_dataset(
        "csv",
        data_files=files,
        cache_dir=str(output / "cache"),
        keep_default_na=False,
        na_values=[""],
    )
    splits = [
        loaded[split]
        .add_column("split", [split] * len(loaded[split]))
        .add_column("line", list(range(2, len(loaded[split]) + 2)))
        for split in SPLITS
    ]
    rows = concatenate_datasets(splits)

    def columns(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        texts, labels = batch["text"], batch["label"]
        keys = ["" if text is None else normalise(text) for text in texts]
        return {
            "encoding": [text is not None and re.search(FAULT, text) is not None for text in texts],
            "empty": [text is None or label is None for text, label in zip(texts, labels, strict=True)],
            "unknown": [label is not None and label not in rules.labels for label in labels],
            "long": [text is not None and len(text) > rules.max_chars for text in texts],
            "key": keys,
            "signature": [signature(key) for key in keys],
        }

    rows = rows.map(columns, batched=True, num_proc=2)
    found = {
        "encoding": sum(rows["encoding"]),
        "empty_values": sum(rows["empty"]),
        "unknown_labels": sum(
            unknown and not empty for unknown, empty in zip(rows["unknown"], rows["empty"], strict=True)
        ),
    }
    usable = rows.filter(lambda row: not (row["empty"] or row["unknown"]), num_proc=2)
    found["text_length"] = sum(usable["long"])
    split, key, label = list(usable["split"]), list(usable["key"]), list(usable["label"])
    labels_of: dict[str, set[str]] = {}
    for one, of in zip(key, label, strict=True):
        labels_of.setdefault(one, set()).add(of)
    found["conflicting_labels"] = sum(len(labels_of[one]) > 1 for one in key)
    found["exact_duplicates"] = len(key) - len(set(zip(split, key, label, strict=True)))
    found |= count_tokens(list(usable["text"]), rules)
    found |= count_classes(split, label, rules)
    signatures = usable.with_format("numpy")["signature"][:].astype("uint32")
    similar = find_similar(split, key, rules, list(signatures))
    line = list(usable["line"])
    return found, {
        check: [(f"{split[row]}.csv", line[row]) for row in positions] for check, positions in similar.items()
    }


PEERS: dict[str, Callable[[Rules, Path], tuple[dict[str, int], Any]]] = {
    "pandera": pandera,
    "great_expectations": great_expectations,
    "datasets": datasets,
}


def main() -> None:
    name, rules, output = sys.argv[1], Rules(Path(sys.argv[2])), Path(sys.argv[3])
    for package in ("pandas", "datasketch", "tokenizers", *imports(name)):
        __import__(package)
    began = time.perf_counter()
    found, similar = PEERS[name](rules, output)
    seconds = time.perf_counter() - began
    found |= {check: len(rows) for check, rows in similar.items()}
    print(json.dumps({"seconds": seconds, "found": found, "similar": similar}))


def imports(name: str) -> Iterator[str]:
    """The packages of a peer, whose import is not timed."""
    yield {"pandera": "pandera.pandas"}.get(name, name)


if __name__ == "__main__":
    main()
