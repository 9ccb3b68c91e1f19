"""Three reporting guidelines, item by item: where the page answers, and what the author must add.

Subjects of the items are in our own words and short: what counts for a submission is the
guideline's own text. Numbers and order were taken from public transcriptions of the checklists and
compared between two of each, of STARD-AI's second one in part.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Item:
    """One item of a guideline.

    Attributes:
      number: as the guideline counts.
      subject: what it asks for.
      sections: ids of the page's sections that answer it; () where software cannot know.
      author: what the author must supply besides, or instead; '' where nothing.
    """

    number: str
    subject: str
    sections: tuple[str, ...] = ()
    author: str = ""


@dataclasses.dataclass(frozen=True)
class Checklist:
    """A guideline with its source."""

    key: str
    title: str
    scope: str
    source: str
    doi: str
    items: tuple[Item, ...]


_CLAIM = (
    Item("1", "Title or abstract names AI and its kind", (), "title and abstract"),
    Item("2", "Structured abstract", (), "abstract; figures from this page"),
    Item("3", "Background, intended use and clinical role", (), "introduction"),
    Item("4", "Aims and hypotheses", (), "introduction"),
    Item("5", "Prospective or retrospective", (), "design of the collection"),
    Item("6", "Goal of the study", ("summary",), "which use it is a step towards"),
    Item("7", "Sources of the data", ("data",), "hospital, dates, and link if public"),
    Item("8", "Inclusion and exclusion criteria", ("data",), "how patients and slides were chosen"),
    Item("9", "Preprocessing", ("data",), "what was done before the images came here"),
    Item("10", "Choice of parts of the data", ("data",), "how tiles were chosen from slides"),
    Item("11", "De-identification", (), "method, and who checked it"),
    Item("12", "Missing data", ("data",), "what was missing before the images came here"),
    Item("13", "Image acquisition", (), "staining, scanner, magnification"),
    Item("14", "Definition of the reference standard", (), "how labels were made"),
    Item("15", "Why this reference standard", (), "rationale and its limits"),
    Item("16", "Who annotated, with what qualification", (), "annotators"),
    Item("17", "How the test set was annotated", (), "procedure and tools"),
    Item("18", "Agreement between and within raters", (), "measured agreement"),
    Item("19", "How data were assigned to partitions", ("data",)),
    Item("20", "Level at which partitions are disjoint", ("data", "audit")),
    Item("21", "Size of the test set and how it was set", ("data",), "calculation of sample size"),
    Item("22", "Model in detail", ("provenance",)),
    Item("23", "Software and versions", ("provenance",)),
    Item("24", "Starting weights", ("provenance",)),
    Item("25", "Training: augmentation, hyperparameters", ("training", "provenance")),
    Item("26", "Choice of the final model", ("training",)),
    Item("27", "Ensembling, if any", ("training",)),
    Item("28", "Measures of performance", ("results",), "why these measures matter clinically"),
    Item("29", "Uncertainty and tests", ("results", "curves"), "tests against other models"),
    Item("30", "Robustness and sensitivity", (), "such analyses"),
    Item("31", "Explainability and its validation", ("errors",), "review of the maps by an expert"),
    Item("32", "Evaluation on internal data", ("results",)),
    Item("33", "Testing on external data, or why not", (), "an external set: this run has none"),
    Item("34", "Registration of a clinical trial", (), "if it is one"),
    Item("35", "Numbers included and excluded", ("data",), "exclusions before that"),
    Item("36", "Demography and clinic by partition", (), "age, sex, disease by partition"),
    Item(
        "37",
        "Performance by partition and subgroup, with statistical uncertainty",
        ("results",),
        "subgroups of patients",
    ),
    Item("38", "Diagnostic accuracy with precision", ("results", "curves")),
    Item("39", "Analysis of failures", ("confusion", "errors"), "clinical meaning of the errors"),
    Item("40", "Limitations", ("limits",), "discussion"),
    Item("41", "Implications for practice", (), "discussion"),
    Item("42", "Protocol or further technical detail", ("provenance",), "link to the protocol"),
    Item("43", "Availability of software, model, data", ("provenance",), "where others get them"),
    Item("44", "Funding and its role", (), "statement"),
)

_STARD_AI = (
    Item("1", "Named as a study of AI diagnostic accuracy", (), "title and abstract"),
    Item("2", "Structured abstract", (), "abstract"),
    Item("3", "Background, intended use, place in the workflow", (), "introduction"),
    Item("4", "Objectives and hypotheses", (), "introduction"),
    Item("5", "Prospective or retrospective", (), "design of the collection"),
    Item("6", "Ethics approval", (), "committee and number, or why none is needed"),
    Item("7", "Eligibility of participants and of data", ("data",), "criteria for participants"),
    Item("8", "How eligible participants were identified", (), "basis"),
    Item("9", "Setting, places and dates", (), "setting"),
    Item("10", "Consecutive, random or convenience series", (), "kind of series"),
    Item("11", "Source of the data and why collected", ("data",), "routine, for study, or public"),
    Item("12", "Who annotated, and how", (), "annotators"),
    Item("13", "Capture devices; software", ("provenance",), "devices"),
    Item("14", "Acquisition and preprocessing", ("data",), "acquisition"),
    Item("15a", "Index test in detail", ("provenance", "training")),
    Item("15b", "How the index test was developed", ("data", "training")),
    Item("15c", "Cut-offs, rationale", ("results", "calibration"), "whether prespecified"),
    Item("15d", "Intended user and expertise", (), "user"),
    Item("16a", "Reference standard in detail", (), "how labels were made"),
    Item("16b", "Why this reference standard", (), "rationale"),
    Item("16c", "Cut-offs of the reference standard", (), "what separates the classes"),
    Item("17a", "What readers of the index test knew", ("data",), "what users would see besides"),
    Item("17b", "What assessors of the standard knew", (), "blinding of annotators"),
    Item("18", "Statistical methods", ("results", "curves")),
    Item("19", "Indeterminate results", ("calibration",), "indeterminate labels"),
    Item("20", "Missing data", ("data",), "what was missing before the images came here"),
    Item("21", "Variability, prespecified or not", ("results",), "what was prespecified"),
    Item("22", "Sample size", ("data",), "how it was set"),
    Item("23", "Analysis of errors; bias and fairness", ("errors",), "fairness between groups"),
    Item("24", "Flow diagram", ("data",), "participants before the images came here"),
    Item("25", "Characteristics of each set", ("data",), "demography and clinic"),
    Item("26a", "Severity among the diseased", ("data",), "scores beyond the classes"),
    Item("26b", "Other diagnoses among the others", (), "diagnoses"),
    Item("27", "Interval between test and standard", (), "time and treatment between"),
    Item("28", "Whether the sets resemble the intended population", (), "comparison"),
    Item("29", "How an external set differs", (), "an external set: this run has none"),
    Item("30", "Cross-tabulation with the standard", ("confusion",)),
    Item("31", "Accuracy with its precision", ("results", "curves")),
    Item("32", "Adverse events", (), "of taking the biopsy"),
    Item("33", "Limitations", ("limits",), "discussion"),
    Item("34", "Implications for practice", (), "discussion"),
    Item("35", "Ethics and fairness of use", (), "discussion"),
    Item("36", "Registration", (), "number and registry"),
    Item("37", "Protocol", (), "where it can be read"),
    Item("38", "Funding", (), "statement"),
    Item("39", "Commercial interests", (), "statement"),
    Item("40a", "Availability of data and code", ("provenance",), "where, and on what terms"),
    Item("40b", "Outputs stored and open to audit", ("provenance",), "who may see them"),
)

_TRIPOD_AI = (
    Item("1", "Title: model, population, outcome", (), "title"),
    Item("2", "Abstract", (), "abstract, by TRIPOD+AI for abstracts"),
    Item("3a", "Context and rationale", (), "introduction"),
    Item("3b", "Target population, purpose, users", (), "introduction"),
    Item("3c", "Known inequalities between groups", (), "introduction"),
    Item("4", "Objectives", ("summary",), "objectives of the study"),
    Item("5a", "Sources of data", ("data",), "cohort, and whom it stands for"),
    Item("5b", "Dates of the data", (), "first and last biopsy"),
    Item("6a", "Setting and centres", (), "setting"),
    Item("6b", "Eligibility", (), "criteria"),
    Item("6c", "Treatments", (), "treatment before the biopsy"),
    Item("7", "Preprocessing and quality checks", ("data", "audit"), "alike across groups?"),
    Item("8a", "Outcome and how it was assessed", (), "how labels were made"),
    Item("8b", "Who assessed it", (), "annotators"),
    Item("8c", "Blinding of the assessment", (), "blinding of annotators"),
    Item("9a", "Choice of predictors", ("data",), "why images alone"),
    Item("9b", "Definition of predictors", ("data",), "how the images were taken"),
    Item("9c", "Who assessed predictors", (), "who cut the tiles"),
    Item("10", "Study size", ("data",), "how it was set"),
    Item("11", "Missing data", ("data",), "what was missing before the images came here"),
    Item("12a", "Use of the data, partitions", ("data",)),
    Item("12b", "Handling of predictors", ("data", "provenance")),
    Item(
        "12c",
        "Model, building steps, internal validation",
        ("training", "calibration", "provenance"),
    ),
    Item("12d", "Differences between clusters", (), "such as centres"),
    Item("12e", "Measures and plots of performance", ("results", "curves", "calibration")),
    # Calibration on the validation split is a step of development: 12c, not an update.
    Item("12f", "Updating after evaluation", (), "any update; this run makes none"),
    Item("12g", "How predictions were made", ("provenance",)),
    Item("13", "Class imbalance", ("training", "calibration")),
    Item("14", "Fairness", (), "what was done for it"),
    Item("15", "Output and thresholds", ("results", "calibration")),
    Item("16", "How evaluation data differ", ("data",), "settings and criteria"),
    Item("17", "Ethics approval and consent", (), "committee and number"),
    Item("18a", "Funding", (), "statement"),
    Item("18b", "Conflicts of interest", (), "statement"),
    Item("18c", "Protocol", (), "where it can be read, or that there is none"),
    Item("18d", "Registration", (), "number, or that there is none"),
    Item("18e", "Data sharing", (), "where, and on what terms"),
    Item("18f", "Code sharing", ("provenance",), "where your copy of the code is"),
    Item("19", "Patient and public involvement", (), "statement"),
    Item("20a", "Flow of participants", ("data",), "participants before the images came here"),
    Item("20b", "Characteristics of participants", (), "demography and clinic"),
    Item("20c", "Comparison with development data", ("data",), "demography by partition"),
    Item("21", "Participants and outcomes in each analysis", ("data",)),
    Item("22", "Full model for use by others", ("provenance",), "where others get it"),
    Item("23a", "Performance with intervals", ("results", "curves"), "subgroups of patients"),
    Item("23b", "Differences between clusters", (), "such as centres"),
    Item("24", "Results of updating", (), "of any update; this run makes none"),
    Item("25", "Interpretation", (), "discussion"),
    Item("26", "Limitations", ("limits",), "discussion"),
    Item("27a", "Poor or missing input in use", ("calibration",), "what users shall do then"),
    Item("27b", "What users do, and their expertise", (), "users"),
    Item("27c", "Next steps", (), "discussion"),
)

CHECKLISTS: tuple[Checklist, ...] = (
    Checklist(
        "claim",
        "CLAIM 2024",
        "AI in medical imaging, 44 items",
        "Tejani AS et al. Checklist for Artificial Intelligence in Medical Imaging (CLAIM): 2024 "
        "Update. Radiology: Artificial Intelligence 2024; 6(4): e240300.",
        "10.1148/ryai.240300",
        _CLAIM,
    ),
    Checklist(
        "stard-ai",
        "STARD-AI",
        "diagnostic accuracy of AI, 40 items",
        "Sounderajah V et al. The STARD-AI reporting guideline for diagnostic accuracy studies "
        "using artificial intelligence. Nature Medicine 2025; 31: 3283-3289.",
        "10.1038/s41591-025-03953-8",
        _STARD_AI,
    ),
    Checklist(
        "tripod-ai",
        "TRIPOD+AI",
        "clinical prediction models, 27 items",
        "Collins GS et al. TRIPOD+AI statement: updated guidance for reporting clinical prediction "
        "models that use regression or machine learning methods. BMJ 2024; 385: e078378.",
        "10.1136/bmj-2023-078378",
        _TRIPOD_AI,
    ),
)
