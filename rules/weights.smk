# Checkpoints --> lock --> weights.
# `resolve` asks the hub what every checkpoint consists of and writes config/checkpoints.lock.tsv;
# it runs when it is asked for (`snakemake --cores 1 resolve`). `fetch` downloads what is locked,
# under the disk budget of the machine: it gives up weights that are scored, waits for others to
# be, and while it waits takes no core. A local folder is never copied: `fingerprint` records what
# lies in it.
import json
import os

from downslope.files import file_states
from downslope.process import this_process
from downslope.reclaim import drop_hollow_lists

if workflow.is_main_process:
    refuse_too_large()
    # By this a download knows whether another one of the same run has waited in vain, and whether
    # it has outlived the run.
    os.environ.update(DOWNSLOPE_RUN=json.dumps(this_process()))
    if not any(Path(".snakemake/locks").glob("*")):  # no other run is at work here
        for folder in drop_hollow_lists(Path("resources/weights")):
            logger.info(f"{folder}: given back earlier, fetched again when needed.")


rule resolve:
    log:
        "logs/resolve.log",
    localrule: True
    conda:
        "../envs/score.yaml"
    params:
        checkpoints=[
            {
                key: getattr(row, key)
                for key in ("ckpt", "source", "revision", "tokenizer", "known_bad")
            }
            for row in STUDY.checkpoints
        ],
        tokenizers=config.get("tokenizers", {}),
        lock=str(LOCK.path),
    script:
        "../scripts/resolve_lock.py"


rule fetch:
    input:
        # By the plans it is known which scores are wanted, and so which weights are not.
        lambda w: plan_list_of(w.ckpt),
    output:
        manifest="resources/weights/{ckpt}/fetched.tsv",
    log:
        "logs/fetch/{ckpt}.log",
    benchmark:
        "benchmarks/fetch/{ckpt}.jsonl"
    # What may pass is tried again while it downloads; a wrong hash or a wait in vain stays so.
    retries: 0
    localrule: True
    conda:
        "../envs/score.yaml"
    # With a thread of its own a download that waits would take the core that scoring needs.
    threads: 0
    resources:
        # One download at a time; weights that are at hand are only looked through, and must not
        # queue behind a download that waits for them to be scored.
        fetch=lambda w: 0 if Path(manifest_of(w.ckpt)).is_file() else 1,
    params:
        lock=str(LOCK.path),
        locked=lambda w: locked(w.ckpt),
    script:
        "../scripts/fetch_weights.py"


rule fingerprint:
    input:
        lambda w: LOCAL_FILES[w.ckpt],
    output:
        "resources/fingerprints/{ckpt}.tsv",
    log:
        "logs/fingerprints/{ckpt}.log",
    localrule: True
    conda:
        "../envs/score.yaml"
    params:
        folder=lambda w: weights_folder(w.ckpt),
        # Snakemake runs a job again for a newer file; one put in its place may be older.
        files=lambda w: file_states(map(Path, LOCAL_FILES[w.ckpt])),
    script:
        "../scripts/fingerprint_folder.py"
