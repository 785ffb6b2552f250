"""Studies of the user's own texts: any number of classes, tokenizer and pretrained encoder in a folder."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

import kdviz
import kdviz.models  # before networks of transformers
from kdviz import cli, transfer
from kdviz.errors import DataError, KdvizWarning
from kdviz.models import encoders
from kdviz.networks import read_checkpoint
from kdviz.sources import LabelledTexts, MovieReviews, TextSet, encode, read_texts, review_tokenizer
from kdviz.studies import Study, StudyPlan
from kdviz.studies.sharing import describe_words
from kdviz.studies.work import Workshop

torch.set_num_threads(1)
TOPICS = {"sport": "match", "food": "soup", "music": "song"}


def write_table(path: Path, count: int = 45) -> Path:
    topics = list(TOPICS.items())
    rows = [topics[at % 3] for at in range(count)]
    lines = [f"It is a {word} that I saw {at}.\t{topic}" for at, (topic, word) in enumerate(rows)]
    path.write_text("\n".join(["text\tlabel", *lines]) + "\n", encoding="utf-8")
    path.with_name("words.txt").write_text("\n".join([*TOPICS.values(), ""]), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretrained RoBERTa with its tokenizer of bytes, as save_pretrained leaves them; and a table."""
    from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaForMaskedLM

    folder = tmp_path_factory.mktemp("own")
    texts = read_texts(write_table(folder / "topics.tsv")).texts
    cut = Tokenizer(models.BPE())
    cut.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    cut.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    cut.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    names = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=cut, **names)
    tokenizer.save_pretrained(folder / "encoder")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24}
    config = RobertaConfig(vocab_size=len(tokenizer), max_position_embeddings=40, type_vocab_size=1, **sizes)
    RobertaForMaskedLM(config).save_pretrained(folder / "encoder")
    return folder


SHORT = {"epochs": 2, "head_epochs": 1, "count": 30}
QUICK = {"samples": 4, "probes": 8, "draws": 2}


def run_shell(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", ["kdviz", *map(str, words)])
    with pytest.raises(SystemExit) as ending:
        cli.main()
    assert ending.value.code in (0, None)


def test_shell__own_texts_tokenizer_and_encoder(folder, tmp_path, monkeypatch) -> None:
    """Three classes by name; the teacher starts from the encoder, students are a copy of two layers."""
    own = folder / "encoder"
    study = tmp_path / "study"
    settings = {f"training.{name}": value for name, value in SHORT.items()}
    settings |= {f"measurement.{name}": value for name, value in QUICK.items()}
    settings |= {"data.length": 24, "networks.depth": 2, "training.rate_factor": 1}
    changes = [word for name, value in settings.items() for word in ("-s", f"{name}={value}")]
    options = ("--texts", folder / "topics.tsv", "--words", folder / "words.txt", "--encoder", own)
    run_shell(
        monkeypatch,
        "train",
        study,
        *options,
        "--teacher-epochs",
        1,
        "--layers",
        "cls",
        *changes,
        "--no-progress",
    )
    run_shell(monkeypatch, "measure", study, "--no-progress")
    run = kdviz.open_run(study)
    assert run.summary()["done"].eq(1).all()
    assert {"teacher", "baseline-s0", "student-cls-s0"} <= {*run.networks}

    plan = StudyPlan.load(study)
    assert plan.networks.architecture == "encoder" and plan.data.tokenizer == own
    workshop = Workshop(Study(study, plan, progress=False))
    assert workshop.training_set.classes == ("food", "music", "sport")
    tokens = run.samples["token"].values
    text = workshop.measured_set.texts[0]
    from transformers import AutoTokenizer

    pieces = AutoTokenizer.from_pretrained(own)(text)["input_ids"]
    assert workshop.measured.inputs[0][: len(pieces)].tolist() == pieces
    shown = {word for word, mark in zip(tokens[0], run.samples["foreground"].values[0], strict=True) if mark}
    assert shown <= {*TOPICS.values()} and shown

    start = read_checkpoint(sorted((study / "networks" / "teacher").rglob("*0.safetensors"))[0])
    pretrained = read_checkpoint(own / "model.safetensors")
    name = "encoder.layer.2.output.dense.weight"
    torch.testing.assert_close(start[f"encoder.{name}"], pretrained[f"roberta.{name}"], atol=0, rtol=0)
    student = workshop.build()
    assert len(student.encoder.encoder.layer) == 2 and len(workshop.teacher.encoder.encoder.layer) == 3
    assert student.head.out_features == 3
    followed = run.dataset("student-cls-s0", "cls")["weight_distance"].values
    assert followed[0] == 0 and (followed[1:] > 0).all()

    given: list[tuple] = []
    monkeypatch.setattr(transfer, "report", lambda *asked, **options: given.append((asked, options)))
    workshop.study.share(samples=3)
    ((asked, options),) = given
    settings = options["settings"]["invariance"]
    assert settings == {"special_ids": [0, 2, 3, 1], "mask_id": None, "changes": ("order",)}
    found = transfer.invariance(*asked, teacher="teacher", progress=False, **settings)
    assert found["change"].values.tolist() == ["order"] and found.sizes["sample"] == 3


def test_transfer__of_texts_leaves_special_tokens_alone() -> None:
    known = describe_words(MovieReviews())
    tokenizer = review_tokenizer()
    assert tokenizer.convert_ids_to_tokens(known["special_ids"]) == tokenizer.all_special_tokens
    assert {*tokenizer.all_special_tokens} == {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}
    assert tokenizer.convert_ids_to_tokens(known["mask_id"]) == "[MASK]"
    assert "changes" not in known


@pytest.mark.parametrize("architecture", ["small_bert", "minilm"])
def test_study__own_tokenizer_with_a_network_of_ours(folder, tmp_path, architecture: str) -> None:
    data = {"kind": "texts", "file": folder / "topics.tsv", "foreground": folder / "words.txt", "length": 24}
    plan = StudyPlan(
        data=data | {"tokenizer": folder / "encoder"},
        networks={"architecture": architecture, "teacher": {"kind": "trained", "epochs": 1}},
        measurement=QUICK,
    )
    network = Workshop(Study(tmp_path / "none", plan, progress=False)).build()
    assert network.encoder.config.vocab_size == 326
    inputs, labels = Workshop(Study(tmp_path / "none", plan, progress=False)).student_data
    assert network(inputs[:2]).shape == (2, 3) and set(labels.tolist()) == {0, 1, 2}
    network.eval()
    text = inputs[:1]
    padded = torch.nn.functional.pad(text, (0, 3), value=1)  # here <pad> is 1, and 0 is <s>, which is [CLS]
    assert text[0, 0] == 0 and not (text == 1).any()
    with torch.no_grad():
        first = network.encoder(text).last_hidden_state[:, 0]
        torch.testing.assert_close(network(padded), network.head(first))
    assert first.any()


def test_study__tokenizer_without_padding_is_filled_up_with_the_end_of_text(folder, tmp_path) -> None:
    """As of GPT-2, whose identifier 0 is a token like any other."""
    from transformers import AutoTokenizer

    own = AutoTokenizer.from_pretrained(folder / "encoder")
    own.pad_token = None
    own.save_pretrained(tmp_path / "own")
    data = {"kind": "texts", "file": folder / "topics.tsv", "foreground": folder / "words.txt", "length": 24}
    plan = StudyPlan(
        data=data | {"tokenizer": tmp_path / "own"},
        networks={"architecture": "small_bert", "teacher": {"kind": "trained", "epochs": 1}},
        measurement=QUICK,
    )
    workshop = Workshop(Study(tmp_path / "none", plan, progress=False))
    two = TextSet.from_sentences(["It is a match that I saw.", "It is"])
    assert encode(two, plan.data.load_tokenizer()).ids[1, -1] == own.eos_token_id
    assert workshop.build().pad == own.eos_token_id == 2


@pytest.mark.parametrize(
    ("networks", "tokenizer", "message"),
    [
        ({"teacher": {"kind": "trained", "encoder": "x"}}, False, "data.tokenizer must name its folder"),
        ({"architecture": "encoder"}, True, "are those of networks.teacher.encoder: name one"),
        ({"depth": 2}, True, "are those of networks.teacher.encoder: name one"),
        (
            {"architecture": "minilm", "depth": 2, "teacher": {"kind": "trained", "encoder": "x"}},
            True,
            "depth is that of architecture 'encoder', got 'minilm'",
        ),
    ],
)
def test_plan__says_what_an_encoder_of_ones_own_wants(folder, networks, tokenizer, message) -> None:
    data = {"kind": "texts", "file": folder / "topics.tsv"}
    data |= {"tokenizer": folder / "encoder"} if tokenizer else {}
    with pytest.raises(ValidationError, match=message):
        StudyPlan(data=data, networks=networks)


def test_study__says_what_is_wrong_with_a_folder(folder, tmp_path) -> None:
    def prepare(length: int = 24, tokenizer: Path = folder / "encoder", encoder: Path = folder / "encoder"):
        data = {"kind": "texts", "file": folder / "topics.tsv", "foreground": folder / "words.txt"}
        plan = StudyPlan(
            data=data | {"tokenizer": tokenizer, "length": length},
            networks={"teacher": {"kind": "trained", "encoder": encoder}},
        )
        assert plan.networks.teacher.epochs == 4 and plan.training.rate_factor == 0.1
        return Workshop(Study(tmp_path / "none", plan, progress=False)).build(teacher=True)

    data = {"kind": "texts", "file": folder / "topics.tsv", "tokenizer": folder / "encoder"}
    teacher = {"kind": "trained", "encoder": folder / "encoder"}
    assert StudyPlan(data=data, networks={"teacher": teacher}).data.length == 38, "as many as it reads"
    assert StudyPlan(data=data, networks={"architecture": "small_bert"}).data.length == 96

    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"tokenizer is not a folder: .*missing"):
        prepare(tokenizer=tmp_path / "missing")
    with pytest.raises(DataError, match="empty holds no tokenizer as save_pretrained writes it"):
        prepare(tokenizer=tmp_path / "empty")
    with pytest.raises(DataError, match="empty holds no encoder of the kinds of BERT"):
        prepare(encoder=tmp_path / "empty")
    with pytest.raises(
        DataError, match=r"reads 38 tokens at once, data.length is 39; set it to 38, which cuts longer texts"
    ):
        prepare(length=39)
    network = prepare(length=38)  # as it says
    assert network(torch.full((1, 38), 7)).shape == (1, 3)


# --- tables of texts -----------------------------------------------------------------------------------


def test_read_texts__classes_by_name_and_by_number(tmp_path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("label\ttext\nten\tOne film.\ntwo\tA song\nten\t好\n", encoding="utf-8")
    texts = read_texts(path)
    assert (texts.classes, texts.labels.tolist()) == (("ten", "two"), [0, 1, 0])
    assert texts.words == (("One", "film", "."), ("A", "song"), ("好",))
    assert texts.sample_ids == ("a-000002", "a-000003", "a-000004")
    path.write_text("text\tlabel\na\t10\nb\t2\nc\t10\n", encoding="utf-8")
    assert (read_texts(path).classes, read_texts(path).labels.tolist()) == (("2", "10"), [1, 0, 1])


def test_read_texts__pairs(tmp_path) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_text("premise\thypothesis\tlabel\nIt rains.\tIt is dry.\tno\n", encoding="utf-8")
    texts = read_texts(path)
    assert (texts.texts, texts.contexts, texts.classes) == (("It rains.",), ("It is dry.",), ("no",))


def test_read_texts__marks_listed_words_in_any_script(tmp_path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("text\tlabel\nNot Bad, badly made\t0\n这部电影很好。\t1\n", encoding="utf-8")
    listed = tmp_path / "words.txt"
    listed.write_text("not bad\n很好\n", encoding="utf-8")
    texts = read_texts(path, foreground=["not bad", "很好"])
    marked = [[*np.array(words)[mask]] for words, mask in zip(texts.words, texts.foreground, strict=True)]
    assert marked == [["Not", "Bad"], ["很", "好"]]
    loaded = LabelledTexts(file=path, foreground=listed).load("train")
    assert {*map(np.sum, loaded.foreground)} <= {2}


def test_read_texts__listed_words_may_be_composed_otherwise(tmp_path) -> None:
    """Accents as signs of their own, or not: what looks the same is the same word."""
    path = tmp_path / "a.tsv"
    path.write_text("text\tlabel\nle cafe\u0301 ouvert\t0\nle caf\u00e9 ouvert\t1\n", encoding="utf-8")
    for listed in ("cafe\u0301", "CAF\u00c9"):
        marks = read_texts(path, foreground=[listed]).foreground
        assert [mask.tolist() for mask in marks] == [[False, True, False]] * 2


def test_read_texts__quoted_as_tables_are_exported(tmp_path) -> None:
    """By pandas and spreadsheets; files such as those of GLUE have quotation marks that mean themselves."""
    texts = ['He said "no" twice.', "A plain one.", '"Bravo"']
    table = pd.DataFrame({"text": texts, "label": ["x", "y", "x"]})
    table.to_csv(tmp_path / "own.tsv", sep="\t", index=False)
    assert read_texts(tmp_path / "own.tsv").texts == tuple(texts)
    rows = "".join(f"{text}\tx\n" for text in texts)
    (tmp_path / "glue.tsv").write_text(f"text\tlabel\n{rows}")
    assert read_texts(tmp_path / "glue.tsv").texts == tuple(texts)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (
            "sentence\nfilm\n",
            r"line 1: the header must name a column label and one or two of texts, got \['sen",
        ),
        ("a\tb\tc\tlabel\n1\t2\t3\t4\n", "line 1: the header must name a column label"),
        ("text\tlabel\na\t\n", "line 2: expected text<TAB>label, got 'a"),
        ("text\tlabel\nfilm\n", "line 2: expected text<TAB>label, got 'film'"),
        ("text\tlabel\n", "holds no sentence"),
    ],
)
def test_read_texts__names_file_line_and_fault(contents: str, message: str, tmp_path) -> None:
    (tmp_path / "a.tsv").write_text(contents, encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.tsv.*" + message):
        read_texts(tmp_path / "a.tsv")


def test_encoder__weights_of_other_names_are_no_teacher(folder, tmp_path) -> None:
    """transformers leaves what the file lacks as it was drawn, and only logs it."""
    from transformers import RobertaModel

    shutil.copytree(folder / "encoder", tmp_path / "own")
    weights = read_checkpoint(folder / "encoder" / "model.safetensors")
    save_file(
        {f"student.{name}": value for name, value in weights.items()}, tmp_path / "own/model.safetensors"
    )
    with pytest.raises(
        DataError, match=r"the weights lack embeddings\.\S+, .*; save the encoder with its own"
    ):
        encoders.build(tmp_path / "own", classes=2, trained=True)
    RobertaModel.from_pretrained(folder / "encoder").save_pretrained(tmp_path / "own")  # as it says
    network = encoders.build(tmp_path / "own", classes=2, trained=True)
    name = "embeddings.word_embeddings.weight"
    assert torch.equal(network.encoder.state_dict()[name], weights[f"roberta.{name}"])


def test_encoder__of_a_classifier_is_kept_and_its_head_said_to_be_left_out(folder, tmp_path) -> None:
    from transformers import RobertaForSequenceClassification

    names = {"id2label": {0: "bad", 1: "good"}, "label2id": {"bad": 0, "good": 1}}
    classifier = RobertaForSequenceClassification.from_pretrained(folder / "encoder", **names)
    classifier.save_pretrained(tmp_path)
    said = r"is a classifier \(bad, good\): its encoder .* left out; a new one is trained, a .* first token's"
    with pytest.warns(KdvizWarning, match=said):
        network = encoders.build(tmp_path, classes=2, trained=True)
    for name, value in classifier.roberta.state_dict().items():
        assert torch.equal(network.encoder.state_dict()[name], value), name
    with pytest.warns(KdvizWarning, match="a new one is trained, a linear layer on every token's vector"):
        encoders.build(tmp_path, classes=None, trained=True)
    encoders.build(tmp_path, classes=2)  # untrained, like a student, has no head to lose: no warning


def test_encoder__a_decoder_is_told_apart(tmp_path) -> None:
    from transformers import GPT2Config, GPT2Model

    GPT2Model(GPT2Config(vocab_size=9, n_embd=8, n_layer=1, n_head=2)).save_pretrained(tmp_path)
    with pytest.raises(DataError, match="of the kinds of BERT: a GPT2Model has no module 'embeddings'"):
        encoders.build(tmp_path, classes=2)
