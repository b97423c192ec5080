"""Workers, front-ends' view of them, and the messages between both."""
