"""Configs of the toy cluster in cluster.py. Everything lies in its folder, on loopback.

`SlurmdParameters=config_overrides` lets the node claim more cores than this machine has, and a
long MinJobAge lets slurmctld tell of every job that a session of tests has seen.
"""

from __future__ import annotations

SLURM = """\
ClusterName=toy
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/run/munge.sock
CredType=cred/munge
SlurmctldPort={slurmctld}
SlurmdPort={slurmd}
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.log
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=2
JobAcctGatherParams=OverMemoryKill
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SchedulerType=sched/backfill
SchedulerParameters=sched_min_interval=0,bf_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
ReturnToService=2
GresTypes=gpu
SlurmdParameters=config_overrides
MinJobAge=7200
KillWait=5
OverTimeLimit=0
SlurmdTimeout=300
MessageTimeout=60
SlurmctldTimeout=30
InactiveLimit=0
JobRequeue=0
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 RealMemory=64000 Gres=gpu:fake:{gpus} State=UNKNOWN
PartitionName=cpu Nodes={host} Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
PartitionName=gpu Nodes={host} MaxTime=INFINITE State=UP
"""
NO_DATABASE = "AccountingStorageType=accounting_storage/none\n"
DATABASE = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={slurmdbd}
AccountingStoragePass={folder}/run/munge.sock
AccountingStorageTRES=gres/gpu
AccountingStoreFlags=job_comment
"""
SLURMDBD = """\
AuthType=auth/munge
AuthInfo=socket={folder}/run/munge.sock
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={slurmdbd}
SlurmUser=root
PidFile={folder}/run/slurmdbd.pid
LogFile={folder}/log/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={mariadbd}
StorageUser=slurm
StoragePass=toy
StorageLoc=slurm_acct_db
"""

MARIADB = """\
[mariadbd]
datadir={folder}/database
socket={folder}/run/mariadb.sock
pid-file={folder}/run/mariadb.pid
bind-address=127.0.0.1
port={mariadbd}
innodb-lock-wait-timeout=900
innodb-buffer-pool-size=32M
innodb-log-file-size=8M
innodb-flush-log-at-trx-commit=0
skip-name-resolve
skip-log-bin
"""
