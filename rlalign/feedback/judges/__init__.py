"""LLM judges of pairs behind an OpenAI-compatible endpoint, stored as annotators that never count as people.

prompt      the template of the request, and the markers around texts that are data
client      requests to the endpoint: timeouts, retries, errors
verdicts    the verdict of an answer, and of the two orders of a pair
run         the pairs that a judge has not judged, asked in both orders
rows        the verdicts of the judges of a store
"""
