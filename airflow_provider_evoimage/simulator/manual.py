"""What `--help` says below the options."""

PROMPT_WORDS = """\
words in a prompt
  at submission, for the first POSTs with this prompt (option times=N; else as noted):
  [[http:503 times=2 retry_after=1]]  refused with this status (always); code=... changes the error code
  [[cut:before]]            the connection is closed, nothing is accepted (once)
  [[cut:after]]             accepted and paid, then the connection is closed without an answer (once)
  [[status-after:502]]      accepted and paid, then a proxy's HTML page with this status (once)
  [[junk-after]]            accepted and paid, then status 200 with an unreadable body (once)
  [[silence:90]]            accepted and paid, then no answer for 90 real seconds (once)
  [[delay:3]]               decided only after 3 real seconds; its key answers 409 meanwhile (once)

  in the generation:
  [[fail:CODE]]             fails with this code, such as content_policy_violation
  [[cancelled]]             ends as cancelled
  [[results:0]]             completes with fewer images than asked
  [[duration:30]]           takes 30 seconds, divided by the speed
  [[instant]]               has ended in the answer to its submission
  [[never]]                 does not end

  in its files (always, or times=N):
  [[expired]]               the links are dead from the start
  [[download:slow seconds=5]]  the file takes 5 real seconds
  [[download:short]]        the connection ends half-way
  [[download:html]]         status 200 with an HTML page
  [[download:octet]]        the type is application/octet-stream
  [[download:jpeg]]         JPEG bytes under the name and type of the requested format
  [[download:cut]]          the connection is closed without an answer
  [[download:503]]          refused with this status
"""

EXPLANATION = f"""\
{PROMPT_WORDS}
in a browser
  /                                    what was made, with pictures

control, over HTTP with JSON bodies
  GET    /_simulator/callbacks         webhooks: receiver's host, attempts and what they were answered
  GET    /_simulator/counters          what was asked, paid, replayed, read and downloaded
  GET    /_simulator/generations       every generation, with its prompt and Idempotency-Key
  POST   /_simulator/generations       one made on the website: a submission's fields, "age": S, "account"
  POST   /_simulator/generations/ID    {{"end": "completed|failed|cancelled", "code": ...}} or {{"duration": S}}
  POST   /_simulator/faults            {{"route": "submit|task|list|batch|credits|models|catalog|
                                                  upload|files|download",
                                        "kind": "status|cut|junk|delay" or, for a download,
                                                "slow|short|html|octet|jpeg",
                                        "status", "code", "retry_after", "page", "seconds", "times",
                                        "probability", "after": true to accept a submission
                                                  or an upload first}}
  DELETE /_simulator/faults            take all of them away
  GET    /_simulator/settings
  POST   /_simulator/settings          any of {{"speed", "duration", "link_lifetime", "credits",
                                        "token_credits", "token_daily_credits", "rps", "concurrency",
                                        "n_behaviour": "as_asked|single",
                                        "unavailable_models", "failing_models":
                                                         [...] or {{MODEL: CODE}},
                                        "loopback_callbacks", "slow_start", "files_quota",
                                        "file_lifetime", "files_errors_with_200", "upload_receipts",
                                        "api_keys": [...] or {{key: account}} or null,
                                        "revoked_keys": [...], "ignore_keys", "batch",
                                        "error_style": "new|old", "billing_object",
                                        "freeze": true stops the clock, "advance": seconds}}
  POST   /_simulator/reset             forget everything
  A POST needs the header Content-Type: application/json.

The images are drawn, not generated: each shows its prompt. Nothing leaves this machine.
The files API answers on the same base URL, and alone below /files-api.
"""
