"""n-grams that training documents share with what benchmarks ask."""

from __future__ import annotations

from opendllm.core.data.contamination import overlaps
from opendllm.registries.corpora import Document, Message

SAID = "one two three four five six seven eight"


def test_counts_and_the_worst_first() -> None:
    texts = {
        "b": {
            "whole": SAID,
            "half": "one two three four five and then other words",
            "none": "nothing of it stands anywhere else here",
            "short": "one two",
        },
        "other": {"x": "quite another text altogether, as you see"},
    }
    documents = [
        Document("far", "unrelated words that nobody asks for at all"),
        Document("near", f"before it {SAID.upper()}\n after it"),
        Document("part", "and one two three four five"),
    ]
    read, found = overlaps(texts, documents, 4)
    assert read == 3
    assert found["b"].as_json() == {
        "tasks": 4,
        "too_short": 1,
        "tasks_found": 2,
        "documents_found": 2,
        "worst": [
            {"task": "whole", "share": 1.0, "document": "near"},
            {"task": "half", "share": 2 / 6, "document": "near"},
        ],
    }
    assert found["other"].as_json()["tasks_found"] == 0


def test_prompts_of_documents_are_looked_at_too() -> None:
    chats = [
        Document("chat", "eight", (Message("user", "one two three four"),)),
        Document("prompted", "three four five", "one two"),
        Document("half a pair", "\ud800 one two three"),
    ]
    for document in chats[:2]:
        assert overlaps({"b": {"t": SAID}}, [document], 4)[1]["b"].found
    assert not overlaps({"b": {"t": SAID}}, chats[2:], 4)[1]["b"].found
