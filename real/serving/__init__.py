"""A thin layer before somebody's inference API: predicts lengths, orders, sends; changes no answer."""
