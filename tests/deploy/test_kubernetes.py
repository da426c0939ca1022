"""The Kubernetes manifests: valid to the last field, safe, and agreeing with each other."""

from __future__ import annotations

import copy
import functools
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from skygraft.config.cluster import load_profile

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "kubernetes"
FILES = sorted(FOLDER.glob("*.yaml"))
KUBERNETES = "1.34"
DASK_KINDS = ("DaskAutoscaler", "DaskCluster", "DaskJob")


DOCUMENTS = [document for path in FILES for document in yaml.safe_load_all(path.read_text()) if document]


def everything() -> list[dict[str, Any]]:
    return copy.deepcopy(DOCUMENTS)


def one(kind: str, name: str | None = None) -> dict[str, Any]:
    found = [d for d in everything() if d["kind"] == kind and name in (None, d["metadata"]["name"])]
    assert len(found) == 1, (kind, name)
    return found[0]


def strict(schema: Any) -> Any:
    """The schema of a custom resource, in which a field that it does not know is an error: Kubernetes drops those."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items()}
    if isinstance(made.get("properties"), dict) and not isinstance(made.get("type"), dict):
        made.setdefault("additionalProperties", False)
    return made


@functools.cache
def custom_validator(kind: str) -> jsonschema.Draft202012Validator:
    spec = importlib.util.find_spec("dask_kubernetes")
    assert spec is not None
    assert spec.submodule_search_locations
    crds = Path(spec.submodule_search_locations[0]) / "operator/deployment/helm/dask-kubernetes-operator/crds"
    definition = yaml.load((crds / f"{kind.lower()}.yaml").read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    schema["properties"] |= {"apiVersion": {"const": "kubernetes.dask.org/v1"}, "kind": {"const": kind}}
    schema = strict(schema)
    schema["properties"]["metadata"] = {"type": "object", "required": ["name", "namespace"]}
    schema["required"] = ["apiVersion", "kind", "metadata", "spec"]
    return jsonschema.Draft202012Validator(schema)


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    """The specification of every pod that the manifests make, with where it stands."""
    for document in everything():
        name, spec = document["kind"], document.get("spec", {})
        if name == "DaskJob":
            yield f"{name}.driver", spec["job"]["spec"]
            spec = spec["cluster"]["spec"]
        if name in ("DaskJob", "DaskCluster"):
            yield f"{name}.worker", spec["worker"]["spec"]
            yield f"{name}.scheduler", spec["scheduler"]["spec"]


PODS = dict(pods())


def quantity(text: str | float) -> float:
    """An amount as Kubernetes writes it."""
    number, unit = re.fullmatch(r"([\d.]+)(\w*)", str(text)).groups()  # type: ignore[union-attr]
    return float(number) * {"": 1, "m": 1e-3, "Mi": 2**20, "Gi": 2**30}[unit]


def services() -> dict[str, dict[str, Any]]:
    job, cluster = one("DaskJob")["spec"]["cluster"]["spec"], one("DaskCluster")["spec"]
    return {"DaskJob": job["scheduler"]["service"], "DaskCluster": cluster["scheduler"]["service"]}


def test_there_is_a_manifest_of_every_kind() -> None:
    kinds = {document["kind"] for document in everything()}
    assert kinds >= {*DASK_KINDS, "Namespace", "PersistentVolumeClaim", "NetworkPolicy", "ConfigMap"}


@pytest.mark.parametrize("kind", DASK_KINDS)
def test_dask_kinds_hold_to_the_operators_own_schema(kind: str) -> None:
    custom_validator(kind).validate(one(kind))


@pytest.mark.parametrize("kind", DASK_KINDS)
def test_the_strict_schema_refuses_a_field_that_it_does_not_know(kind: str) -> None:
    document = one(kind)
    document["spec"]["maximun"] = 3
    with pytest.raises(jsonschema.ValidationError, match="maximun"):
        custom_validator(kind).validate(document)


def test_the_strict_schema_refuses_a_misspelt_field_deep_in_a_pod() -> None:
    document = one("DaskJob")
    document["spec"]["job"]["spec"]["containers"][0]["volumeMount"] = []
    with pytest.raises(jsonschema.ValidationError, match="volumeMount"):
        custom_validator("DaskJob").validate(document)


@pytest.mark.parametrize("document", [d for d in everything() if d["kind"] not in DASK_KINDS], ids=lambda d: d["kind"])
def test_plain_kinds_hold_to_kubernetes_own_schema(document: dict[str, Any]) -> None:
    kubernetes_validate.validate(document, KUBERNETES, strict=True)


@pytest.mark.parametrize("where", PODS)
def test_pods_hold_to_todays_schema_too(where: str) -> None:
    # The operator's schema is that of an old Kubernetes.
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": PODS[where]}
    kubernetes_validate.validate(pod, KUBERNETES, strict=True)


@pytest.mark.parametrize("kind", ["DaskJob", "DaskCluster"])
def test_the_scheduler_is_reached_inside_the_cluster_only(kind: str) -> None:
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}, "spec": services()[kind]}
    kubernetes_validate.validate(service, KUBERNETES, strict=True)
    assert service["spec"]["type"] == "ClusterIP"
    assert service["spec"]["selector"]["dask.org/cluster-name"] == one(kind)["metadata"]["name"]
    declared = {port["name"] for port in PODS[f"{kind}.scheduler"]["containers"][0]["ports"]}
    declared |= {port["name"] for port in PODS[f"{kind}.scheduler"]["containers"][1]["ports"]}
    # The operator looks for the first two by name.
    assert [port["name"] for port in service["spec"]["ports"]] == ["tcp-comm", "http-dashboard", "http-metrics"]
    assert {port["targetPort"] for port in service["spec"]["ports"]} <= declared


@pytest.mark.parametrize("where", PODS)
def test_pods_keep_to_the_restricted_standard(where: str) -> None:
    assert one("Namespace")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    pod = PODS[where]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        # Without limits the namespace's quota refuses the pod; without requests it is the first to be evicted.
        limits, requests = container["resources"]["limits"], container["resources"]["requests"]
        assert set(limits) == set(requests) == {"cpu", "memory", "ephemeral-storage"}
        assert all(quantity(requests[name]) <= quantity(limits[name]) for name in limits)


@pytest.mark.parametrize("where", PODS)
def test_scratch_folders_are_below_the_disk_of_their_pod(where: str) -> None:
    """What fills its scratch folder is told so by its own limit, and leaves room for the log."""
    pod = PODS[where]
    (scratch,) = (volume["emptyDir"]["sizeLimit"] for volume in pod["volumes"] if "emptyDir" in volume)
    disk = pod["containers"][0]["resources"]["limits"]["ephemeral-storage"]
    assert 0.5 * quantity(disk) < quantity(scratch) < quantity(disk)


@pytest.mark.parametrize("where", PODS)
def test_inputs_are_read_only_and_every_mount_has_its_volume(where: str) -> None:
    pod = PODS[where]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    claims = {d["metadata"]["name"] for d in everything() if d["kind"] == "PersistentVolumeClaim"}
    maps = {d["metadata"]["name"] for d in everything() if d["kind"] == "ConfigMap"} | {"campaign"}
    for i, container in enumerate(pod["containers"]):
        mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
        # One that only hands on metrics has nothing to do with keys and data.
        assert set(mounts) == (set(volumes) if i == 0 else {"dask-config"})
        writable = {name for name, mount in mounts.items() if not mount.get("readOnly")}
        assert writable <= {"output", "scratch"}
    for volume in volumes.values():
        if "persistentVolumeClaim" in volume:
            assert volume["persistentVolumeClaim"]["claimName"] in claims
        if "configMap" in volume:
            assert volume["configMap"]["name"] in maps
    if "survey" in volumes:
        assert volumes["survey"]["persistentVolumeClaim"]["readOnly"] is True
    assert volumes["tls"]["secret"]["defaultMode"] == 0o440


def test_driver_and_workers_see_the_files_at_the_same_places() -> None:
    def places(where: str) -> dict[str, str]:
        mounts = PODS[where]["containers"][0]["volumeMounts"]
        return {m["name"]: m["mountPath"] for m in mounts if m["name"] in ("survey", "output", "tls", "dask-config")}

    assert places("DaskJob.driver") == places("DaskJob.worker") == places("DaskCluster.worker")
    assert len({pod["containers"][0]["image"] for pod in PODS.values()}) == 1


@pytest.mark.parametrize("where", [name for name in PODS if not name.endswith("driver")])
def test_probes_ask_a_port_that_the_container_has(where: str) -> None:
    container = PODS[where]["containers"][0]
    probes = [probe for name, probe in container.items() if name.endswith("Probe")]
    assert probes
    assert {p["httpGet"]["port"] for p in probes} <= {p["name"] for p in container["ports"]}
    assert {p["httpGet"]["path"] for p in probes} == {"/health"}
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert f"--dashboard-address=:{ports['http-dashboard']}" in container["args"]


def test_connections_are_encrypted_or_refused() -> None:
    config = yaml.safe_load(one("ConfigMap", "dask-config")["data"]["skygraft.yaml"])
    comm = config["distributed"]["comm"]
    assert comm["require-encryption"] is True
    for where, pod in PODS.items():
        container = pod["containers"][0]
        assert "8786" not in str(pod["containers"][1:])
        place = next(m["mountPath"] for m in container["volumeMounts"] if m["name"] == "tls")
        assert Path(comm["tls"]["ca-file"]).parent == Path(place)
        assert "tcp://" not in " ".join(container["args"]), where
        assert any(m["mountPath"] == "/etc/dask" for m in container["volumeMounts"])  # where Dask looks
    for kind in ("DaskJob", "DaskCluster"):
        address = f"tls://{one(kind)['metadata']['name']}-scheduler:8786"
        assert address in PODS[f"{kind}.worker"]["containers"][0]["args"]
        assert "--protocol=tls" in PODS[f"{kind}.scheduler"]["containers"][0]["args"]


def test_the_driver_is_told_of_the_cluster_by_a_profile(tmp_path: Path) -> None:
    driver = PODS["DaskJob.driver"]["containers"][0]
    assert driver["args"][:2] == ["skygraft", "run"]
    profile = Path(driver["args"][driver["args"].index("--cluster") + 1])
    place = {mount["mountPath"]: mount["name"] for mount in driver["volumeMounts"]}[str(profile.parent)]
    content = one("ConfigMap", place)["data"][profile.name]
    for name in ("ca", "cert", "key"):
        (tmp_path / f"{name}.pem").touch()
    (tmp_path / "scheduler.yaml").write_text(content.replace("/etc/skygraft-tls", str(tmp_path)))
    config = load_profile(tmp_path / "scheduler.yaml")
    assert config.uses_tls
    assert config.address in PODS["DaskJob.worker"]["containers"][0]["args"]


def test_the_settings_are_ones_that_dask_knows() -> None:
    import distributed  # noqa: F401  (brings its defaults)
    from dask.config import config as defaults

    def names(settings: dict[str, Any], prefix: str = "") -> Iterator[str]:
        for key, value in settings.items():
            if isinstance(value, dict):
                yield from names(value, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}"

    known = set(names(defaults))
    config = yaml.safe_load(one("ConfigMap", "dask-config")["data"]["skygraft.yaml"])
    assert set(names(config)) <= known
    routes = config["distributed"]["scheduler"]["http"]["routes"]
    assert set(defaults["distributed"]["scheduler"]["http"]["routes"]) < set(routes)
    assert all(importlib.util.find_spec(route) for route in routes)


def test_the_autoscaler_is_of_the_cluster_and_within_the_quota() -> None:
    autoscaler = one("DaskAutoscaler")["spec"]
    assert autoscaler["cluster"] == one("DaskJob")["metadata"]["name"] == one("DaskCluster")["metadata"]["name"]
    assert 1 <= autoscaler["minimum"] <= autoscaler["maximum"]

    def size(where: str, name: str) -> float:
        return sum(quantity(container["resources"]["limits"][name]) for container in PODS[where]["containers"])

    for name, amount in one("ResourceQuota")["spec"]["hard"].items():
        resource = name.removeprefix("limits.")
        needed = size("DaskJob.worker", resource) * autoscaler["maximum"]
        needed += size("DaskJob.scheduler", resource) + size("DaskJob.driver", resource)
        assert needed <= quantity(amount), name


def test_the_network_lets_in_and_out_whom_it_must_and_nobody_else() -> None:
    """Only the operator reaches the port on which workers can be retired; every pod has rules for both directions."""
    policies = {d["metadata"]["name"]: d["spec"] for d in everything() if d["kind"] == "NetworkPolicy"}
    everyone = policies.pop("skygraft")
    assert everyone["podSelector"] == {}
    assert everyone["policyTypes"] == ["Ingress", "Egress"]
    assert everyone["ingress"] == [{"from": [{"podSelector": {}}]}]  # its own namespace
    own, dns = everyone["egress"]
    assert own == {"to": [{"podSelector": {}}]}
    assert {port["port"] for port in dns["ports"]} == {53}
    reached = {}
    for policy in policies.values():
        # What the operator labels the scheduler's pod with.
        assert policy["podSelector"] == {"matchLabels": {"dask.org/component": "scheduler"}}
        (rule,) = policy["ingress"]
        (source,) = rule["from"]
        namespace = source["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
        reached[namespace] = {port["port"] for port in rule["ports"]}
    ports = {port["name"]: port["port"] for port in services()["DaskJob"]["ports"]}
    assert reached == {"dask-operator": {ports["http-dashboard"]}, "monitoring": {ports["http-metrics"]}}


def test_workers_are_one_process_of_the_pods_name() -> None:
    # The operator deletes the pod whose name the scheduler says; with several processes the names differ.
    for where, pod in PODS.items():
        if where.endswith("worker"):
            args = pod["containers"][0]["args"]
            assert "--nworkers=1" in args
            assert args[args.index("--name") + 1] == "$(DASK_WORKER_NAME)"


def test_all_are_in_one_namespace() -> None:
    name = one("Namespace")["metadata"]["name"]
    assert {d["metadata"]["namespace"] for d in everything() if d["kind"] != "Namespace"} == {name}


def test_the_page_names_every_manifest_and_nothing_else(deploy: SimpleNamespace) -> None:
    page = (deploy.page_folder / "kubernetes.md").read_text()
    named = {Path(name).name for name in re.findall(r"deploy/kubernetes/[\w.-]+\.yaml", page)}
    assert named == {path.name for path in FILES}
    assert f"-n {one('Namespace')['metadata']['name']}" in page
