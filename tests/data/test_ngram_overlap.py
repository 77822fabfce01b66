"""n-grams that training documents share with what benchmarks ask."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from opendllm.core.data.ngram_overlap import overlaps
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
    found = overlaps(texts, documents, 4)
    assert found["b"].as_json() == {
        "tasks": 4,
        "too_short": 1,
        "tasks_over": {"0.1": 2, "0.5": 1, "0.9": 1},
        "documents_found": 2,
        "worst": [
            {"task": "whole", "share": 1.0, "document": "near"},
            {"task": "half", "share": 2 / 6, "document": "near"},
        ],
    }
    assert found["other"].as_json()["tasks_over"] == {"0.1": 0, "0.5": 0, "0.9": 0}


def test_prompts_of_documents_are_looked_at_too() -> None:
    chats = [
        Document("chat", "eight", (Message("user", "one two three four"),)),
        Document("prompted", "three four five", "one two"),
        Document("half a pair", "\ud800 one two three"),
    ]
    for document in chats[:2]:
        assert overlaps({"b": {"t": SAID}}, [document], 4)["b"].found
    assert not overlaps({"b": {"t": SAID}}, chats[2:], 4)["b"].found


def test_a_line_that_a_task_shares_with_any_document_is_no_tenth_of_it() -> None:
    licence = "under the terms of the licence"
    task = f"{licence} {' '.join(f'word{number}' for number in range(60))}"
    document = Document("d", f"given {licence} and nothing else")
    found = overlaps({"b": {"t": task}}, [document], 5)["b"].as_json()
    assert found["tasks_over"] == {"0.1": 0, "0.5": 0, "0.9": 0}
    assert (found["documents_found"], found["worst"]) == (0, [])


def test_what_all_prompts_begin_with_is_no_tasks_own() -> None:
    """The examples of a few-shot prompt, say: otherwise each task is found where one of them stands."""
    head = "answer these as the others were answered before"
    tasks = {str(task): f"{head} a{task} b{task} c{task} d{task}" for task in range(30)}
    assert overlaps({"b": tasks}, [Document("d", head)], 4)["b"].as_json()["documents_found"] == 0
    own = overlaps({"b": tasks}, [Document("d", "A3 b3 C3 d3")], 4)["b"]
    assert set(own.found) == {"3"}
    assert own.ngrams["3"] == 4  # three of them begin in the head
    assert overlaps({"b": {"1": head, "2": head}}, [Document("d", head)], 4)["b"].tasks_over(0.9) == 2


WORDS = st.lists(st.sampled_from("abc"), max_size=12).map(" ".join)


@given(st.lists(WORDS, min_size=1, max_size=2), st.lists(WORDS, max_size=3))
def test_it_finds_what_comparing_all_with_all_finds(tasks: list[str], documents: list[str]) -> None:
    def ngrams(text: str) -> set[tuple[str, ...]]:
        said = text.split()
        return {tuple(said[start : start + 3]) for start in range(len(said) - 2)}

    asked = {str(number): text for number, text in enumerate(tasks)}
    given = [Document(str(number), text) for number, text in enumerate(documents)]
    found = overlaps({"b": asked}, given, 3)["b"]
    there = set().union(*map(ngrams, documents))
    for task, text in asked.items():
        assert found.ngrams.get(task, 0) == len(ngrams(text))
        assert len(found.found.get(task, ())) == len(ngrams(text) & there)
