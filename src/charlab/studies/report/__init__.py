"""What a study has found, as Markdown, as a web page and as a paper."""
