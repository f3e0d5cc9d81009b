"""`vec-jobs doctor`, as far as it needs no Slurm: what it reads in the answers of one, and sites of other shapes."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from common.errors import UserError
from tests.disk import full_disk
from vec_jobs import doctor, draft
from vec_jobs.cli import app
from vec_jobs.profiles import Configs, folder
from vec_jobs.site import Association, Nodes, Site, gpus, minutes, parse_association, parse_nodes

# sinfo -a -e -h -o "%P|%a|%l|%c|%m|%G|%T|%D", as Slurm 22.05 and 24.11 print it
LINES = [
    "batch*|up|infinite|128|257000|(null)|idle|10",
    "batch*|up|infinite|128|257000|(null)|mixed|2",
    "test|up|1:00:00|40|385000|gpu:4(S:0-1)|idle|1",
    "24|up|1-00:00:00|40|385000|gpu:4(S:0-1)|allocated|1",
    "24|up|1-00:00:00|40|385000|gpu:4(S:0-1)|idle|1",
    "mig|up|30:00|64|512000|gpu:h100_1g.10gb:7(S:0)|idle|1",
    "old|up|2:00:00|16|64000|gpu:k80:2|drained|3",
    "empty|up|infinite|0|0|(null)|n/a|0",
]


@pytest.fixture
def site() -> Site:
    config = {"ClusterName": "odd-one", "AccountingStorageEnforce": "associations", "KillWait": "30 sec"}
    return Site(config, [parse_nodes(line) for line in LINES], [Association("mine", [])], {"normal"}, sacct=True)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    own = tmp_path / "own"
    own.mkdir()
    monkeypatch.setenv("VEC_CONFIG_DIR", str(own))
    monkeypatch.setenv("SCRATCH", str(tmp_path))
    return own


def differences(site: Site, name: str | None = None) -> list[str]:
    return [str(one) for one in doctor.diagnose(Configs(), site, name).differences]


# ------------------------------------------------------------------------------------------- what Slurm says


def test_a_line_of_sinfo_is_understood() -> None:
    line = "a40*|up|7-00:00:00|32|176000|gpu:a40:4(S:0-1)|down*|2"
    assert parse_nodes(line) == Nodes("a40", True, True, 10080, 32, 176000, {"a40": 4}, "down*", 2)
    empty = parse_nodes("none|inact|infinite|0|0|(null)|n/a|0")
    assert (empty.up, empty.max_time_min, empty.usable) == (False, None, False)


@pytest.mark.parametrize(
    ("gres", "found"),
    [
        ("(null)", {}),
        ("gpu", {"": 1}),
        ("gpu:4", {"": 4}),
        ("gpu:a100:4(S:0-1),gpu:3,mps:400", {"a100": 4, "": 3}),
        ("craynetwork:3,gpu:v100:1", {"v100": 1}),
        ("gpu:h100_1g.10gb:7(S:0)", {"h100_1g.10gb": 7}),
        ("gpu:a40:2(S:0),gpu:a40:2(S:1)", {"a40": 4}),
    ],
)
def test_gpus_are_counted_by_type(gres: str, found: dict[str, int]) -> None:
    assert gpus(gres) == found


@pytest.mark.parametrize(
    ("limit", "found"), [("infinite", None), ("3:00:00", 180), ("7-00:00:00", 10080), ("30:00", 30), ("n/a", None)]
)
def test_time_limits_are_minutes(limit: str, found: int | None) -> None:
    assert minutes(limit) == found


def test_an_association_without_qos_admits_any() -> None:
    assert parse_association("vec|fast,normal") == Association("vec", ["fast", "normal"])
    assert parse_association("vec|") == Association("vec", [])


@pytest.mark.parametrize("word", ["SlurmctldParameters", "PreemptParameters"])  # up to 22.05, and after
def test_the_user_signal_at_preemption_is_found_in_old_and_new_slurm(site: Site, word: str) -> None:
    assert not site.sends_user_signal
    config = site.config | {word: "enable_configless,preempt_send_user_signal"}
    assert replace(site, config=config).sends_user_signal


def test_without_slurm_it_says_so_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    told = CliRunner().invoke(app, ["doctor", "killarney"])
    assert told.exit_code == 1
    assert told.output.startswith("Error: There is no Slurm on this machine")
    assert len(told.output.splitlines()) == 1


# ----------------------------------------------------------------------------------------------- odd sites


def test_a_draft_of_an_odd_site_agrees_with_it(site: Site, own: Path) -> None:
    written = [file.relative_to(own) for file in draft.write("odd_one", site, folder())]
    presets = {str(file.stem) for file in written[1:]}
    assert presets == {"cpu_1x", "gpu_1x", "gpu_2x", "gpu_4x", "gpu_4x_2n", "h100_1g_10gb_1x", "h100_1g_10gb_2x",
                       "h100_1g_10gb_7x"}  # fmt: skip
    (own / "cluster/twin.yaml").write_text((own / "cluster/odd_one.yaml").read_text())  # fits as well
    diagnosis = doctor.diagnose(Configs(), site, None)  # but odd-one is Slurm's name
    assert diagnosis.text() == ["odd_one: the profile and its 8 presets agree with this site."]
    asked = {preset.name: preset.compute for preset in diagnosis.presets}
    mig = asked["odd_one/h100_1g_10gb_7x"]
    assert (mig.gpu_type, mig.cpus_per_task, mig.mem_gb, mig.timeout_min) == ("h100_1g.10gb", 9, 500, 30)
    untyped = asked["odd_one/gpu_4x_2n"]
    assert (untyped.gpu_type, untyped.nodes, untyped.slurm.partition) == (None, 2, "24")
    cpu = asked["odd_one/cpu_1x"]
    assert (cpu.gpus_per_node, cpu.slurm.partition, cpu.cpus_per_task, cpu.mem_gb) == (0, None, 2, 3)


@pytest.mark.parametrize("limit", [100, 600])  # bytes: no preset fits, only the profile does not
def test_a_failed_draft_leaves_nothing(site: Site, own: Path, limit: int) -> None:
    with full_disk(limit), pytest.raises(OSError, match="large"):
        draft.write("odd_one", site, folder())
    assert {path.name for path in own.rglob("*")} <= {"cluster", "compute"}


def test_a_name_that_is_no_file_name_is_refused(site: Site, own: Path) -> None:
    with pytest.raises(UserError, match="cannot be the name"):
        draft.write("../odd", site, folder())
    assert list(own.iterdir()) == []


def test_an_account_is_asked_for_where_slurm_enforces_one(site: Site, own: Path) -> None:
    draft.write("odd_one", site, folder())
    without = replace(site, associations=[])
    (told,) = differences(without)
    assert told.startswith("account: we say none, the site says a job needs one, and you have none. Ask the site")
    assert differences(replace(without, config=site.config | {"AccountingStorageEnforce": "none"})) == []


def test_nobody_is_asked_where_no_accounts_are_kept(site: Site, own: Path) -> None:
    (own / "user.yaml").write_text("user: {slurm: {account: any, additional_parameters: {qos: any}}}\n")
    without = replace(site, associations=None, qos=None, sacct=False)
    draft.write("odd_one", without, folder())
    assert differences(without) == []


def test_a_wrong_profile_is_told_in_one_line(site: Site, own: Path) -> None:
    profile, *_ = draft.write("odd_one", site, folder())
    profile.write_text(profile.read_text().replace("memory_gb", "memory", 1))
    with pytest.raises(UserError, match=r"own/cluster/odd_one.yaml: .*Key 'memory' not in 'NodeKind'") as told:
        Configs().profile("odd_one")
    assert len(str(told.value).splitlines()) == 1
    assert Configs().profile("killarney").compute.cluster == "killarney"  # the others are read all the same


@pytest.mark.parametrize("file", ["cluster/other.yaml", "compute/mine.yaml", "user.yaml"])
def test_a_file_that_is_no_yaml_is_told_with_its_line_and_spoils_nothing_else(site: Site, own: Path, file: str) -> None:
    draft.write("odd_one", site, folder())
    (own / file).write_text("executor: slurm\nsetup: [module load\n")
    try:
        said = differences(site, "odd_one")
    except UserError as error:
        said = [str(error)]
    assert (said == []) == (file == "cluster/other.yaml")
    assert all(f"{own / file}:3: " in one and len(one.splitlines()) == 1 for one in said)


def test_a_user_yaml_may_set_any_shared_field(site: Site, own: Path) -> None:
    (own / "user.yaml").write_text("user: {slurm: {account: mine}}\npaths: {work_root: /elsewhere}\n")
    draft.write("odd_one", site, folder())
    assert differences(site, "odd_one") == []


def test_types_of_gpus_that_are_numbers_or_differ_in_case_get_names_of_their_own(site: Site, own: Path) -> None:
    more = ["test|up|1:00:00|40|385000|gpu:4090:2|idle|1", "test|up|1:00:00|40|385000|gpu:A100:2,gpu:a100:1|idle|1"]
    odd = replace(site, nodes=[*site.nodes, *map(parse_nodes, more)])
    written = {file.stem for file in draft.write("odd_one", odd, folder())}
    assert {"gpu_4090_2x", "a100_2x", "a100_2_1x"} <= written
    assert differences(odd, "odd_one") == []


def test_presets_keep_to_the_default_partition_where_it_has_such_nodes(site: Site, own: Path) -> None:
    gpus = ["debug*|up|30:00|40|385000|gpu:a100:4|idle|1", "long|up|infinite|40|385000|gpu:a100:4|idle|8"]
    draft.write("odd_one", replace(site, nodes=[parse_nodes(line) for line in gpus]), folder())
    assert not (own / "compute/odd_one/a100_4x_2n.yaml").exists()  # one node there
    text = (own / "compute/odd_one/a100_1x.yaml").read_text()
    assert "timeout_min: 30\n" in text
    assert "partition" not in text


def test_a_kind_without_nodes_and_a_profile_without_a_work_root_are_told(site: Site, own: Path) -> None:
    profile, *_ = draft.write("odd_one", site, folder())
    kind = "    gone:\n      cpus: 1\n      memory_gb: 1\n      partitions: {empty: null}\n"
    text = "".join(line for line in profile.read_text().splitlines(True) if not line.startswith("work_root"))
    profile.write_text(text + kind)
    nodes, root = differences(site, "odd_one")
    assert nodes.startswith("nodes gone: we say they are there, the site says no node in its partitions.")
    assert root.startswith("work root: none is named. Name a folder that all nodes see at ")


def test_an_account_and_a_qos_are_told_where_they_stand(site: Site, own: Path) -> None:
    draft.write("odd_one", site, folder())
    (own / "user.yaml").write_text(
        "user:\n  slurm:\n    account: mine\n    additional_parameters:\n      account: other\n      qos: fast\n"
    )
    account, qos = differences(site, "odd_one")
    assert account == "account: we say other, the site says yours are mine. Mend own/user.yaml:5."
    assert qos == "qos of user: we say fast, the site says there are normal. Mend own/user.yaml:6."


def test_an_unknown_profile_is_told_with_those_there_are(site: Site, own: Path) -> None:
    with pytest.raises(UserError, match=r"no profile cluster/nope.yaml. Known: bon_echo, killarney"):
        differences(site, "nope")
    with pytest.raises(UserError, match="Slurm calls it odd-one"):
        differences(site)


def test_the_examples_of_the_guide_are_a_profile_and_a_preset_of_it(own: Path) -> None:
    guide = Path(__file__).parents[2] / "docs/guide/adding-a-cluster.md"
    examples = re.findall(r"^```yaml\n(.*?)^```", guide.read_text(), re.MULTILINE | re.DOTALL)
    for file, text in zip(("cluster/mysite.yaml", "compute/mysite/a100_2x.yaml"), examples, strict=True):
        (own / file).parent.mkdir(parents=True)
        (own / file).write_text(text)
    configs = Configs()
    (preset,) = configs.presets(configs.profile("mysite"))
    assert (preset.name, preset.compute.gpu_memory_gb, configs.unreadable) == ("mysite/a100_2x", 80, {})
    assert all(
        hasattr(preset.compute.site, name) for name in re.findall(r"^\| `(\w+)` ", guide.read_text(), re.MULTILINE)
    )
