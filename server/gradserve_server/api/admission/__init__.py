"""Who is let in, and when: callers, the expected wait, and what attacks are expected to cost."""
