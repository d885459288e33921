"""Ray here, two actors with a tiny model each, against this process: the same bits, nothing lost, nothing twice."""

import os
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from test_scan import some_texts

import emolens as el
from emolens.engines import Ray, each
from emolens.models.model import HookedModel
from emolens.reading.scan_result import Scan
from emolens.vectors.pooling import SHARD_TEXTS, pool

TEXTS = some_texts(3 * SHARD_TEXTS, longest=20)
pooled_by = partial(pool, token_budget=400, progress=False)  # four batches in a shard, three shards
FEW = ["afraid", "angry", "calm", "happy"]


def model_for_actors(home: str, worst: str = "", seed: int = 0) -> HookedModel:
    """The model of `tiny`; each pass is written down in `home`, and the third one of all may be the process's last.

    `worst` is "killed" where that happens once, and "always" where every pass ends so.
    """
    import signal

    from tiny import tiny_llama, tiny_tokenizer

    from emolens.models.hooked import Hooked

    run = Hooked._run

    def counted(self, batch, *rest):
        if self.checking:  # what works on the model, not a text
            return run(self, batch, *rest)
        passes = Path(home, "passes.txt")
        with open(passes, "a") as file:
            file.write(f"{len(batch.ids)}\n")
        if worst == "always":
            os.kill(os.getpid(), signal.SIGKILL)
        if worst == "killed" and len(passes.read_text().split()) >= 3:
            try:
                Path(home, "killed").touch(exist_ok=False)
            except FileExistsError:
                return run(self, batch, *rest)
            os.kill(os.getpid(), signal.SIGKILL)
        return run(self, batch, *rest)

    Hooked._run = counted
    return HookedModel.from_hf(tiny_llama(seed), tiny_tokenizer(), "tiny-llama")


@pytest.fixture(scope="module")
def cluster():
    ray = pytest.importorskip("ray")
    path = [str(Path(__file__).parent), str(Path(el.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, path)))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")  # else the tests beside them come first
        ray.init(
            address="local", num_cpus=2, num_gpus=0, object_store_memory=100_000_000, include_dashboard=False,
            log_to_driver=False,
        )  # fmt: skip
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the actors have no module of this name
    yield ray
    ray.shutdown()


@pytest.fixture
def engine(cluster, tmp_path):
    return lambda **how: Ray(actors=2, load=partial(model_for_actors, str(tmp_path), **how))


def passed(tmp_path: Path) -> int:
    """Texts that the actors ran since this was last asked."""
    file = tmp_path / "passes.txt"
    texts = sum(map(int, file.read_text().split())) if file.exists() else 0
    file.unlink(missing_ok=True)
    return texts


def same(one, other) -> bool:
    return torch.equal(one.residual_norm, other.residual_norm) and all(
        torch.equal(one.means(rule, layer).nan_to_num(9), other.means(rule, layer).nan_to_num(9))
        for rule in one.rules
        for layer in one.layers
    )


@pytest.fixture
def here(tiny):
    return pooled_by(tiny, TEXTS, cache=False)


def test_pooling_gives_the_same_bits_and_the_same_files(tiny, here, engine, tmp_path):
    pooled = pooled_by(tiny, TEXTS, cache=tmp_path / "ray", engine=engine())
    assert same(pooled, here) and pooled.stamp == here.stamp and passed(tmp_path) == len(TEXTS)
    pooled_by(tiny, TEXTS, cache=tmp_path / "own")
    ours, theirs = (sorted((tmp_path / name).rglob("*.safetensors")) for name in ("own", "ray"))
    assert [path.parts[-2:] for path in ours] == [path.parts[-2:] for path in theirs] and len(ours) == 3
    for one, other in zip(ours, theirs, strict=True):
        assert all(torch.equal(tensor.nan_to_num(9), load_file(other)[name].nan_to_num(9))
                   for name, tensor in load_file(one).items())  # fmt: skip
        with safe_open(one, "pt") as left, safe_open(other, "pt") as right:
            assert left.metadata() == right.metadata()


def test_a_killed_worker_loses_nothing_and_nothing_is_run_twice(tiny, here, engine, tmp_path):
    pooled = pooled_by(tiny, TEXTS, cache=tmp_path / "ray", engine=engine(worst="killed"))
    assert (tmp_path / "killed").exists()
    assert same(pooled, pooled_by(tiny, TEXTS, cache=False))
    assert sorted(row for rows, _ in pooled.parts for row in rows) == list(range(len(TEXTS)))
    # At most what the dead actor had begun, a shard, is run again.
    assert len(TEXTS) < passed(tmp_path) <= len(TEXTS) + 2 * SHARD_TEXTS
    assert not [path for path in (tmp_path / "ray").rglob("*") if path.name.startswith(".")]


def test_workers_that_always_die_are_given_up_and_what_was_left_is_named(tiny, cluster, tmp_path):
    engine = Ray(load=partial(model_for_actors, str(tmp_path), worst="always"), retries=1)
    with pytest.raises(RuntimeError, match=r"shard 0 \(texts 0, 1, 2\): the actor that ran it has died 2 times"):
        pooled_by(tiny, TEXTS[:3], cache=tmp_path / "ray", engine=engine)
    assert passed(tmp_path) == 6  # twice


@pytest.mark.parametrize("url", ["", "file://"])
def test_a_run_goes_on_in_the_other_engine(tiny, here, engine, tmp_path, monkeypatch, url):
    from tiny import passes

    place = url + str(tmp_path / "shared") if url else tmp_path / "shared"
    pooled_by(tiny, TEXTS, cache=place)
    first, second, third = sorted((tmp_path / "shared").rglob("*.safetensors"))
    second.unlink()
    lost = int(torch.tensor([len(rows) for rows, _ in here.parts])[1])
    assert same(pooled_by(tiny, TEXTS, cache=place, engine=engine()), here)
    assert passed(tmp_path) == lost
    first.unlink()
    third.write_bytes(third.read_bytes()[:1000])
    ran = passes(monkeypatch)
    assert same(pooled_by(tiny, TEXTS, cache=place), here)
    assert sum(ran) == len(TEXTS) - lost


def test_shards_in_a_bucket_are_read_and_checked_as_those_on_disk(tiny, here, caplog):
    import fsspec

    cache, bucket = "memory://bucket/shards", fsspec.filesystem("memory")
    pooled = pooled_by(tiny, TEXTS, cache=cache)
    assert same(pooled, here)
    files = sorted(bucket.find("/bucket"))
    assert len(files) == 3
    spoiled = bytearray(bucket.cat_file(files[1]))
    spoiled[-100] ^= 1
    bucket.pipe_file(files[1], bytes(spoiled))
    with pytest.raises(ValueError, match="0001.safetensors was changed while it was in use"):
        pooled.means(0, 3)
    assert same(pooled_by(tiny, TEXTS, cache=cache), here) and "damaged" in caplog.text


def test_a_shard_that_fails_names_its_texts(tiny, cluster, tmp_path):
    texts = [[5, 6, 7]] * 129 + [[5, 79, 7]]
    with torch.no_grad():
        tiny.hf_model.model.embed_tokens.weight[79] = 1e38  # so that the square of its norm overflows

    def load(home):
        model = model_for_actors(home)
        with torch.no_grad():
            model.hf_model.model.embed_tokens.weight[79] = 1e38
        return model

    with pytest.raises(ValueError, match="text 129: the output of block 0 of tiny-llama is not finite") as caught:
        pooled_by(tiny, texts, engine=Ray(actors=2, load=partial(load, str(tmp_path))))
    assert any("shard" in note and "129" in note for note in caught.value.__notes__)


def test_derive_gives_the_same_vectors(tiny, few_dialogues, engine, tmp_path):
    corpus = el.corpus.stories("plain").where(emotion=FEW)
    expected = el.derive(tiny, corpus, cache=False, progress=False)
    found = el.derive(tiny, corpus, cache=False, engine=engine(), progress=False)  # through memory
    for name in ("raw", "neutral_basis", "whitened", "residual_norm"):
        assert torch.equal(getattr(found, name), getattr(expected, name))
    assert found.stamp == expected.stamp


@pytest.fixture
def vectors(tiny, few_dialogues):
    return el.derive(tiny, el.corpus.stories("plain").where(emotion=FEW), [2], cache=False, progress=False)


def few_at_a_time(monkeypatch, ahead):
    monkeypatch.setattr(sys.modules["emolens.reading.document_stream"], "WINDOW", 8)
    monkeypatch.setattr(sys.modules["emolens.reading.scan"], "AHEAD", ahead)


@pytest.mark.parametrize("at", ["tokens", "document"])
def test_scanning_finds_the_same(tiny, vectors, engine, tmp_path, monkeypatch, at):
    few_at_a_time(monkeypatch, 8)
    texts = [*some_texts(30), "", *some_texts(5), b"\xff", "she"]  # five are equal to others; some are skipped
    expected = el.scan(tiny, vectors, texts, k=4, at=at, progress=False)
    found = el.scan(tiny, vectors, texts, k=4, at=at, progress=False, engine=engine())
    assert found == expected and found.skipped == 3


def test_a_scan_goes_on_in_the_other_engine(tiny, vectors, engine, tmp_path, monkeypatch):
    few_at_a_time(monkeypatch, 3)  # the actors are asked twice for forty texts
    texts = some_texts(40)
    expected = el.scan(tiny, vectors, texts, k=4, progress=False)
    state = tmp_path / "scan.json"
    with pytest.raises(ValueError, match="document 20 is of type int"):
        el.scan(tiny, vectors, [*texts[:20], 7], k=4, path=state, progress=False, engine=engine())
    done = Scan.load(state).documents
    assert 0 < done <= 20
    passed(tmp_path)
    assert el.scan(tiny, vectors, texts[:24], k=4, path=state, progress=False).documents == 24
    assert el.scan(tiny, vectors, texts, k=4, path=state, progress=False, engine=engine()) == expected
    assert passed(tmp_path) == 16


def test_another_model_in_the_workers_is_refused(tiny, engine, tmp_path):
    with pytest.raises(ValueError, match="the actors of Ray load another model than the one that is here .fingerprint"):
        pooled_by(tiny, TEXTS[:3], cache=False, engine=engine(seed=1))
    with pytest.raises(ValueError, match="no model 'tiny-llama'") as caught:
        pooled_by(tiny, TEXTS[:3], cache=False, engine=Ray())
    assert "see `load` of el.engines.Ray" in caught.value.__notes__[0]


def test_hooks_that_the_workers_would_not_have_are_refused(tiny):
    with (
        tiny.hooks([((0, "resid_post"), lambda x, hook: x + 1)]),
        pytest.raises(ValueError, match="hooks or a steering"),
    ):
        pooled_by(tiny, TEXTS[:3], engine=Ray())


def test_without_ray_the_error_says_how_to_install_it(tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install 'emolens\[ray\]'"):
        pooled_by(tiny, TEXTS[:3], engine=Ray())


@pytest.mark.parametrize(
    "cache, said",
    [
        ("", "names no folder"),
        (Path("s3://bucket"), "has lost a slash"),
        ("nowhere://bucket", "nowhere"),
    ],
)
def test_a_cache_that_is_none_is_refused(tiny, cache, said):
    with pytest.raises(ValueError, match=said):
        pooled_by(tiny, TEXTS[:3], cache=cache)


def test_a_shard_that_cannot_be_seen_from_here_is_said_to_be_so(tiny, tmp_path):
    class Elsewhere:
        """An engine whose machines have a disk of their own."""

        def map(self, model, start, tasks):
            for name, result in each(None, model, start, tasks):
                for file in tmp_path.rglob("*.safetensors"):
                    file.unlink()
                yield name, result

    with pytest.raises(FileNotFoundError, match="give `cache` a folder or a bucket that all machines share"):
        pooled_by(tiny, TEXTS[:3], cache=tmp_path, engine=Elsewhere())
