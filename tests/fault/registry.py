"""All faults, in the order in which they are made; the cluster's last, since it takes the node's place."""

from tests.fault import broker, budget, cancels, cluster, gateways, model, poison, workers
from tests.fault.fault import Fault

FAULTS = (
    Fault(
        "worker-kill9",
        "`kill -9` of a worker that holds half of the jobs; it is started again after 1 s.",
        workers.killed,
    ),
    Fault(
        "worker-kill9-amid-calls",
        "`kill -9` of a worker in a stage of 20 calls, three at once, when 10 are recorded.",
        workers.killed_amid_calls,
    ),
    Fault(
        "fan-out",
        "20 times `kill -9` of the worker that runs a job of 200 branches, each time once it has got on.",
        workers.killed_amid_branches,
    ),
    Fault(
        "worker-frozen",
        "`SIGSTOP` of a worker that holds half of the jobs, `SIGCONT` 30 s later.",
        workers.frozen,
    ),
    Fault(
        "workers-rolling",
        "`SIGTERM` to three workers in turn under load, each replaced when it has drained.",
        workers.rolling,
    ),
    Fault(
        "leader-kill9",
        "`kill -9` of the worker that leads the sweep; then jobs without an order run out of time.",
        workers.leader_killed,
    ),
    Fault(
        "clock-ahead",
        "The clock of one of three workers, the one that leads the sweep, is 10 minutes ahead.",
        workers.clock_ahead,
    ),
    Fault(
        "budget-leader-frozen",
        "`SIGSTOP` of the worker that grants, with grants on their way; `SIGCONT` 30 s later. Calls wait.",
        budget.leader_frozen,
    ),
    Fault(
        "budget-leader-cut-off",
        "A proxy lets nothing of the worker that grants pass for 30 s, and refuses its new connections.",
        budget.leader_partitioned,
    ),
    Fault("clock-behind", "The clock of one of two gateways is 20 minutes behind.", gateways.clock_behind),
    Fault("broker-restart", "An orderly stop and start of RabbitMQ under load.", broker.restarted),
    Fault("broker-kill9", "`kill -9` of RabbitMQ under load, started again with its data.", broker.killed),
    Fault("connection-cut", "A proxy resets every connection of every process, three times.", broker.cut),
    Fault(
        "half-open",
        "A proxy keeps every connection open and lets nothing pass; new connections work.",
        broker.half_open,
    ),
    Fault(
        "password-rotated",
        "The processes' password is refused for 20 s under load, and their connections are closed.",
        broker.password_rotated,
    ),
    Fault(
        "confirms-withheld",
        "A proxy keeps back the confirms of the journal on every open connection; new connections work.",
        broker.confirms_withheld,
    ),
    Fault(
        "tail-silent",
        "A proxy keeps back the journal's records on every open connection; all else passes.",
        broker.tail_silent,
    ),
    Fault(
        "stream-deleted",
        "The journal's stream is deleted under load; judged is what is accepted afterwards.",
        broker.stream_deleted,
    ),
    Fault(
        "broker-wiped",
        "`kill -9` of RabbitMQ under load, started again without its data; judged as stream-deleted.",
        broker.wiped,
    ),
    Fault(
        "memory-alarm",
        "`rabbitmqctl set_vm_memory_high_watermark` near 0 for about 15 s.",
        broker.memory_alarm,
    ),
    Fault(
        "disk-alarm",
        "`rabbitmqctl set_disk_free_limit` above the disk's size for about 15 s.",
        broker.disk_alarm,
    ),
    Fault(
        "gateway-kill9",
        "`kill -9` of the gateway with all 500 clients, who go on at the other one.",
        gateways.killed,
    ),
    Fault(
        "gateway-kill9-amid-batches",
        "`kill -9` of a gateway amid two batches, one not sent to its end; they are sent again elsewhere.",
        gateways.killed_amid_batches,
    ),
    Fault(
        "cancel-kill9",
        "Jobs are cancelled in every state, amid `kill -9` of the worker, then of the gateway that is asked.",
        cancels.killed,
    ),
    Fault(
        "gateway-between-writes",
        "A proxy drops a gateway's work orders, so that it dies between `queued` and the order.",
        gateways.between_writes,
    ),
    Fault("key-race", "The same key to two gateways at the same time, 200 times.", gateways.raced),
    Fault(
        "deaf-clients", "20 clients open streams of 8 MB of live text and never read.", gateways.deaf_clients
    ),
    Fault("provider-503", "The provider answers 503 to everything for 30 s.", model.down),
    Fault("provider-429", "The provider refuses half of all calls with 429 for 30 s.", model.storm),
    Fault(
        "broken-answers",
        "One call in seven stalls, breaks off or ends in a reset, most of them in the middle.",
        model.broken_answers,
    ),
    Fault("no-quota", "The provider answers `insufficient_quota` to everything for 30 s.", model.no_quota),
    Fault(
        "rare-script",
        "Questions of 2,000 signs of cuneiform, control characters and rare syllables, at true limits.",
        model.rare_script,
    ),
    Fault("poison-order", "Undecodable messages are put into the work queue.", poison.orders),
    Fault("poison-bug", "A pipeline whose handler raises ZeroDivisionError.", poison.bugs),
    Fault("poison-crash", "A pipeline whose handler kills its process with SIGKILL.", poison.crashes),
    Fault("queue-purged", "`rabbitmqctl purge_queue` while most jobs wait in the queue.", broker.purged),
    Fault(
        "cluster-node-kill9",
        "`kill -9` of the node of three that everybody is connected to; it comes back later.",
        cluster.node_killed,
    ),
    Fault(
        "cluster-node-cut-off",
        "One node of three gets wrong cookies, so that it and the others lose each other.",
        cluster.node_cut_off,
    ),
)


def named(names: list[str]) -> tuple[Fault, ...]:
    """Those faults, in the registry's order; all if none is named. Raises KeyError for an unknown name."""
    known = {fault.name: fault for fault in FAULTS}
    wanted = {known[name].name for name in names}
    return tuple(fault for fault in FAULTS if not names or fault.name in wanted)
