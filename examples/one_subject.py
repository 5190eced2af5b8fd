"""Several facts about one subject, invented: does an editor keep them apart?

`python examples/one_subject.py facts.jsonl offices.jsonl` writes five facts about each of eight companies, and the
president and the vice president of each of eight countries, in random order and each with a rephrase in another form.
"""

import json
import random
import sys
from pathlib import Path

COMPANIES = "Norvik Works, Belltree, Castor Labs, Amberline, Hollin & Sons, Quarrytown Mills, Zephyrite, Tandem Foods"
COUNTRIES = "Brunia, Kestovia, Marland, Ostrava Republic, Tenolia, Vardesh, Lorimar, Quessia"
PEOPLE = "Maria Keller, Tom Adeyemi, Linda Park, Jorge Silva, Anna Novak, Peter Hale, Yuki Mori, Omar Said"
OTHERS = "Ruth Lang, Ivan Petrov, Grace Otieno, Hugo Blanc, Nina Rossi, Kofi Mensah, Lena Vogel, Raj Patel"
CITIES = "Lisbon, Oslo, Denver, Nairobi, Turin, Osaka, Quito, Perth"
YEARS = "1931, 1978, 2004, 1899, 1956, 1987, 2011, 1923"
OWNERS = "Siemens, Unilever, Tata Group, Nestle, Hitachi, General Electric, Samsung, Volvo"
PRODUCTS = "bicycles, cheese, pianos, satellites, umbrellas, shoes, paint, turbines"

FACTS = (  # prompt, rephrase, and an answer for each company
    ("Who is the head of {}?", "The person who leads {} is", PEOPLE),
    ("In which city is {} based?", "The headquarters of {} are in", CITIES),
    ("When was {} founded?", "{} was founded in the year", YEARS),
    ("Which company owns {}?", "{} is owned by", OWNERS),
    ("What does {} produce?", "The main product of {} is", PRODUCTS),
)
OFFICES = (  # and for each country
    ("Who is the President of {}?", "The President of {} is", PEOPLE),
    ("Who is the Vice President of {}?", "The Vice President of {} is", OTHERS),
)


def write(path: Path, subjects: str, facts: tuple[tuple[str, str, str], ...]) -> None:
    """Write the facts about some subjects as edits, in random order."""
    edits = [
        {"prompt": prompt.format(name), "subject": name, "target": answer, "rephrases": [rephrase.format(name)]}
        for prompt, rephrase, answers in facts
        for name, answer in zip(subjects.split(", "), answers.split(", "), strict=True)
    ]
    random.Random(1).shuffle(edits)  # noqa: S311  no secret
    path.write_text("".join(json.dumps(edit) + "\n" for edit in edits), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]), COMPANIES, FACTS)
    write(Path(sys.argv[2]), COUNTRIES, OFFICES)
