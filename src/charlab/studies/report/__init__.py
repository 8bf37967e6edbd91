"""The report on a study, as Markdown, a web page and a paper."""
