"""What a GPU that is lent for minutes is asked, the most important first, so that a second call goes on."""
