# Downslope: from data sets and checkpoints to the tasks on which language models get worse.
#
#   data sets --> items --> plans --.
#                                    >-- scores --> cells --> effects --> figures
#   checkpoints --> lock --> weights'
#
# The study is the working directory: `snakemake --directory STUDY` chooses another one.
from snakemake.utils import min_version

min_version("9.27")


configfile: "config/config.yaml"


include: "rules/common.smk"
include: "rules/data.smk"
include: "rules/weights.smk"
include: "rules/score.smk"
include: "rules/cells.smk"
include: "rules/stats.smk"
include: "rules/drift.smk"
include: "rules/figures.smk"
include: "rules/design.smk"
include: "rules/cost.smk"
include: "rules/exchange.smk"
include: "rules/demo.smk"


rule all:
    default_target: True
    input:
        targets(),
        unpublished,
    localrule: True


rule partial:
    input:
        targets("partial/"),
    localrule: True
