"""Which properties of its teacher a study's networks share, from the command line to the chart."""

import shutil

import numpy as np
import pytest
import xarray as xr
from tiny_study import draw_images, make_plan
from torch import nn

import kdviz
from kdviz import analysis, cli, transfer
from kdviz.errors import StoreError
from kdviz.networks import load_weights
from kdviz.sources import make_domain
from kdviz.studies import Study, StudyPlan, sharing
from kdviz.studies.work import Workshop


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A teacher that has learned something, a baseline and a student by its answers."""
    folder = tmp_path_factory.mktemp("sharing")
    plan = make_plan(
        draw_images(folder, per_class=40),
        networks={"teacher": {"kind": "trained", "epochs": 40}},
        training={"count": 60, "epochs": 4},
        losses=[{"kind": "kl"}],
    )
    study = Study(folder / "study", plan, progress=False)
    study.train()
    return study


@pytest.fixture(scope="module")
def shared(trained):
    """The same study, asked by the command line."""
    cli.app(["transfer", str(trained.folder), "--no-progress"], standalone_mode=False)
    return kdviz.open_run(trained.run_path)


def test_transfer__keeps_every_property_of_every_network(shared):
    names = ["teacher", "baseline-s0", "student-kl-s0"]
    assert [name.split("/")[1] for name in shared.results] == sorted({*transfer.PROPERTIES} - {"bias"})
    for name in shared.results:
        ds = shared.result(name)
        assert ds["network"].values.tolist() == names
        assert ds["role"].values.tolist() == ["teacher", "independent", "student"]
    domains = shared.result("transfer/consensus")["domain"].values.tolist()
    assert {*domains} == {"as they are", "edges", "silhouette", "stylised", "sketch", "inverted"}


def test_transfer__tells_the_accuracies_of_the_study(trained, shared):
    told = shared.result("transfer/confidence")["right"].mean("sample")
    for subject in trained.subjects():
        accuracies, _ = trained.accuracies(subject)
        assert float(told.sel(network=subject.name)) == pytest.approx(accuracies[max(accuracies)], abs=1e-9)


def test_transfer__answers_to_domains_are_those_to_images_drawn_all_at_once(trained, shared):
    workshop = Workshop(trained)
    images = make_domain(workshop.held_out_set, "edges")
    inputs, labels = workshop.as_tensors(images)
    for subject in trained.subjects():
        network = workshop.build_for(subject)()
        load_weights(network, workshop.finished(subject)[1])
        right = network.eval()(inputs).argmax(1) == labels
        ds = shared.result("transfer/consensus").sel(network=subject.name)
        np.testing.assert_array_equal(ds["right"].values[ds["domain"] == "edges"], right)


def test_transfer__draws_no_domain_whole(trained, monkeypatch):
    drawn = []

    def count(images, domain):
        drawn.append(len(images))
        return make_domain(images, domain)

    monkeypatch.setattr(sharing, "make_domain", count)
    trained.share()
    assert len(drawn) >= 5 * len(Workshop(trained).held_out_set) and max(drawn) == 1


def test_transfer__finished_is_not_asked_again(trained, shared, monkeypatch, capsys):
    before = {name: shared.result(name) for name in shared.results}
    passes = []
    call = nn.Module.__call__

    def count(module, *inputs, **named):
        passes.append(type(module).__name__)
        return call(module, *inputs, **named)

    monkeypatch.setattr(nn.Module, "__call__", count)
    cli.app(["transfer", str(trained.folder), "--no-progress"], standalone_mode=False)
    assert passes.count("SmallVGG") <= 3, "one sample shows that the networks fit each other"
    for name, ds in before.items():
        xr.testing.assert_identical(shared.result(name), ds)
    told = capsys.readouterr().out
    assert "accuracy" in told and "student-kl" in told and "kdviz rerun 10_transfer" in told


def test_transfer__asks_about_as_many_as_before(trained, shared, monkeypatch, tmp_path):
    shutil.copytree(trained.folder, tmp_path / "study")
    study = Study(tmp_path / "study", StudyPlan.load(tmp_path / "study"), progress=False)
    asked, ask = [], Workshop.ask
    monkeypatch.setattr(sharing.transfer, "report", lambda *_, **__: None)  # what is stored stays
    monkeypatch.setattr(Workshop, "ask", lambda self, count: asked.append(count) or ask(self, count))
    study.share()
    count = shared.result("transfer/confidence").sizes["sample"]
    assert shared.result("transfer/consensus").sizes["sample"] > count, "of several domains, each sample once"
    chunk = next(one for one in (study.run_path / "transfer/confidence/right/c").rglob("*") if one.is_file())
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(content)
    study.share()  # what is damaged is asked anew
    study.share(11)
    assert asked == [count, 1000, 11]


def test_transfer__scores_every_row_of_the_chart(shared):
    table = analysis.score_transfer(analysis.read_transfer(shared).values())
    asked = [name for name in transfer.PROPERTIES if name != "bias"]  # of which no group is known
    assert list(dict.fromkeys(table["property"])) == ["accuracy", *asked]
    rows = {(one["property"], one["part"]) for _, one in table.iterrows()}
    assert ("invariance", "blur") in rows and ("consensus", "edges") in rows and ("accuracy", "") in rows
    assert table[table["role"] == "independent"]["margin"].isna().all(), "there is no other"
    rows = table[table["property"] != "localization"].set_index(["property", "part", "network"])
    scores = rows["score"].unstack()
    np.testing.assert_allclose(
        rows["margin"].unstack()["student-kl-s0"], scores["student-kl-s0"] - scores["baseline-s0"], atol=1e-12
    )
    same = table[(table["property"] == "consensus") & (table["role"] == "teacher")]
    np.testing.assert_array_equal(same["score"], 1.0)


def test_transfer__before_training_says_what_comes_first(trained, tmp_path):
    shutil.copytree(trained.folder, tmp_path / "study")
    shutil.rmtree(tmp_path / "study" / "networks" / "student-kl-s0")
    study = Study(tmp_path / "study", StudyPlan.load(tmp_path / "study"), progress=False)
    with pytest.raises(StoreError, match=r"no finished training run in .*student-kl-s0; first kdviz train"):
        study.share()
