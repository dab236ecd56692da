"""Who crashed the process? Pure functions of what the journal says of one job."""

from eco2.journal.state import JobState

SUSPECT_AFTER = 3
"""Crashes without any progress between them after which a job runs alone. Neighbours are spread over other
processes by each crash, so few of them are ever this unlucky."""

ALONE = 4
"""Crashes alone after which it was the job. Fewer may be somebody's `kill -9`: where the leader is killed
every 20 s, a job taken over 15 s after a kill has 5 s to get on, and some that run alone do not."""


def suspect(state: JobState) -> bool:
    """True if the job shall run alone: too many of its runs ended without a word since it last got on.

    `state`: as it is when the job changes hands, so a run that still holds it counts as one of them.
    """
    return state.crashes + state.held >= SUSPECT_AFTER


def crashed_alone(state: JobState) -> bool:
    """True if the job's holder, which is silent now, ran nothing else: it was this job.

    Not if the job got on while it was alone: then it is not the one that crashed the others.
    """
    return state.held and state.alone and state.crashes >= SUSPECT_AFTER + ALONE - 1
