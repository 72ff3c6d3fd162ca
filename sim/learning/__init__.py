"""Learns the lengths of answers from somebody's log, and says how well; needs `seqsched[predict]`."""
