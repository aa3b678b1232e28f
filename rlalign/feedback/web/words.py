"""Visible texts of the feedback pages in English and Chinese, and the choice of the language."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

LANGUAGES = ("en", "zh")

_TEXTS: dict[str, tuple[str, str]] = {
    # Every page
    "language_en": ("English", "English"),
    "language_zh": ("中文", "中文"),
    "skip_to_content": ("Skip to the content", "跳到正文"),
    "language_label": ("Language", "语言"),
    "withdraw_link": ("Withdraw from the study", "退出研究"),
    "back_link": ("Back to the task", "返回任务"),
    "try_again": ("Try again", "重试"),
    "continue_button": ("Continue", "继续"),
    # Invitation
    "join_title": ("Welcome", "欢迎"),
    "join_text": (
        "This link is your personal access to the study. Do not pass it on.",
        "此链接是您参加本研究的个人入口，请勿转发给他人。",
    ),
    "join_cookie": (
        "“Begin” stores one cookie in this browser, which is needed to recognize you. "
        "You can close the page at any time and use the link again to continue.",
        "点击“开始”会在此浏览器中保存一个用于识别您的 Cookie。您可以随时关闭页面，之后再用此链接继续。",
    ),
    "join_button": ("Begin", "开始"),
    # Consent
    "consent_title": ("Consent to take part", "参与同意书"),
    "consent_agree": ("I have read this text and agree to take part.", "我已阅读以上内容并同意参加。"),
    "consent_button": ("Agree and continue", "同意并继续"),
    "consent_decline": (
        "If you do not want to take part, close this page. No answers are stored then.",
        "如果您不想参加，请直接关闭此页面，不会保存任何回答。",
    ),
    "consent_version": ("Version", "版本"),
    # Guidelines
    "guidelines_title": ("Guidelines", "评判指南"),
    "guidelines_button": ("Continue", "继续"),
    "guidelines_later": (
        "The guidelines stay available next to every task.",
        "在每个任务旁边都可以随时查看本指南。",
    ),
    "scales_title": ("Scales", "评分标准"),
    # Task: headings
    "title_pair": ("Which answer is better?", "哪个回答更好？"),
    "title_rating": ("Rate the answer", "请为回答评分"),
    "title_ranking": ("Rank the answers", "请为回答排序"),
    "progress_label": ("Progress", "进度"),
    "progress_done": ("Done", "已完成"),
    "progress_left": ("Left for you", "剩余"),
    "practice_mark": ("Practice: this answer is not counted", "练习：此回答不计入结果"),
    "check_again": ("The first try was not right. One try is left.", "第一次测试未答对，还剩一次机会。"),
    "check_mark": ("Test before the tasks: a correct answer is needed", "任务前的测试：需要答对"),
    "prompt_title": ("Prompt", "提示"),
    "role_system": ("System", "系统"),
    "role_user": ("User", "用户"),
    "role_assistant": ("Assistant", "助手"),
    "role_text": ("Text", "文本"),
    "answers_title": ("Answers", "回答"),
    "answer_label": ("Answer", "回答"),
    "cut_mark": (
        "Cut off at the length limit. Judge the part that is shown.",
        "已达到长度上限而被截断，请只评判显示的部分。",
    ),
    "empty_answer": ("(empty answer)", "（空回答）"),
    "unfold_button": ("Show all of both answers", "展开全部内容"),
    "unfold_one_button": ("Show the whole answer", "展开完整回答"),
    "unfold_all_button": ("Show all answers in full", "展开全部回答"),
    # Task: tools
    "tools_label": ("Tools", "工具"),
    "raw_button": ("Raw text", "原始文本"),
    "differences_button": ("Differences", "差异"),
    "differences_too_long": (
        "The answers are too long or too different to mark the differences.",
        "回答过长或差别过大，无法标出差异。",
    ),
    "guidelines_open": ("Guidelines", "评判指南"),
    "guidelines_close": ("Close guidelines", "关闭指南"),
    "choice_before": ("before", "之前"),
    "undo_button": ("Undo last answer", "撤销上一个回答"),
    "shortcuts_open": ("Keys", "快捷键"),
    "shortcuts_close": ("Close keys", "关闭快捷键"),
    "shortcut_help": ("Show or hide this list", "显示或隐藏此列表"),
    "shortcut_rate": (
        "Set the scale that has the focus, or the next open one",
        "为当前选中的评分项打分，否则为下一个未评分项打分",
    ),
    "shortcut_rank": (
        "Set the rank that has the focus, or the next open one",
        "为当前选中的回答设定名次，否则为下一个未排序的回答设定名次",
    ),
    "shortcut_close": ("Close a panel, leave a text field", "关闭面板，离开输入框"),
    # Task: choices
    "choice_label": ("Your choice", "您的选择"),
    "choice_a": ("A is better", "A 更好"),
    "choice_b": ("B is better", "B 更好"),
    "choice_tie": ("Equally good", "一样好"),
    "choice_bad": ("Both are bad", "都不好"),
    "choice_skip": ("Skip", "跳过"),
    "save_button": ("Save", "保存"),
    "ranking_help": (
        "1 is the best rank. Answers of equal quality may share a rank.",
        "1 为最好。质量相同的回答可以排在同一名次。",
    ),
    "rank_label": ("Rank of answer", "名次：回答"),
    "comment_summary": ("Add a comment", "添加评论"),
    "comment_label": ("Comment (optional)", "评论（可选）"),
    "comment_help": (
        "Please leave out names and other personal data.",
        "请不要填写姓名等个人信息。",
    ),
    # Task: messages of the script
    "status_saved": ("Saved", "已保存"),
    "status_lost": (
        "Connection lost. Your answer is kept in this browser and will be sent again.",
        "连接已断开。您的回答已保留在此浏览器中，稍后会自动重新发送。",
    ),
    "status_paused": (
        "The study is paused. Your answer is kept in this browser and will be sent again.",
        "研究已暂停。您的回答已保留在此浏览器中，稍后会自动重新发送。",
    ),
    "status_refused": ("The answer was not accepted.", "回答未被接受。"),
    # Practice
    "practice_correct": ("As expected", "与预期一致"),
    "practice_wrong": ("Another answer was expected", "预期的是另一个答案"),
    "practice_expected": ("Expected answer", "预期答案"),
    "practice_why": ("Explanation", "说明"),
    # Break
    "break_title": ("Time for a break", "休息一下"),
    "break_text": (
        "A short break helps to judge with care. The time on this page is not counted as working time.",
        "短暂休息有助于认真评判。在此页面停留的时间不计入工作时间。",
    ),
    "break_items": ("Answers since the last break", "自上次休息以来的回答数"),
    "break_time": ("Active time since the last break", "自上次休息以来的活动时间"),
    "duration": ("{minutes} min {seconds} s", "{minutes} 分 {seconds} 秒"),
    # End
    "done_title": ("Thank you, everything is done", "感谢您，任务已全部完成"),
    "done_text": ("There are no more tasks for you at the moment.", "目前没有更多任务。"),
    "done_items": ("Answers", "回答数"),
    "done_time": ("Active time", "活动时间"),
    "done_code": ("Your completion code", "您的完成码"),
    "done_code_help": ("Enter this code on the page that sent you here.", "请在引导您来此的网站上填写此代码。"),
    "withdrawn_title": ("You have withdrawn", "您已退出研究"),
    "withdrawn_text": (
        "Your answers are no longer used and you get no more tasks. You can close this page.",
        "您的回答将不再被使用，也不会再分配任务。您可以关闭此页面。",
    ),
    "failed_title": ("The check was not passed", "未通过测试"),
    "failed_text": (
        "There are no tasks for you in this study. Thank you for your time.",
        "本研究没有可分配给您的任务。感谢您抽出时间。",
    ),
    # Errors, by status
    "error_title": ("This did not work", "操作未成功"),
    "error_title_401": ("You are not signed in", "您尚未登录"),
    "error_title_404": ("There is nothing here", "页面不存在"),
    "error_title_423": ("The study is paused", "研究已暂停"),
    "error_title_429": ("Too many requests", "请求过于频繁"),
    "error_400": (
        "The form was incomplete or damaged. Load the page and send it again.",
        "表单不完整或已损坏，请重新加载页面后再次提交。",
    ),
    "error_401": (
        "Open your personal link again. If this does not help, the link has expired or was revoked.",
        "请重新打开您的个人链接。如果仍无法进入，说明链接已过期或已被撤销。",
    ),
    "error_403": ("The page was out of date. Load it again.", "页面已失效，请重新加载。"),
    "error_404": (
        "The link is unknown, has expired or was revoked. Ask the person who sent it to you.",
        "链接不存在、已过期或已被撤销。请联系将链接发给您的人。",
    ),
    "error_409": (
        "The task was already answered, or it was given to somebody else because its time was over.",
        "该任务已被回答，或因超时已分配给他人。",
    ),
    "error_413": ("The text is too long.", "文本过长。"),
    "error_422": ("The answer was incomplete. Please answer again.", "回答不完整，请重新作答。"),
    "error_423": ("Please come back later. Your answers are kept.", "请稍后再来，您的回答已保留。"),
    "error_429": ("Please wait a moment and try again.", "请稍等片刻后重试。"),
    # Withdrawal
    "withdraw_title": ("Withdraw from the study", "退出研究"),
    "withdraw_text": (
        "After this step your answers are no longer used and you get no more tasks. It cannot be undone here.",
        "退出后，您的回答将不再被使用，也不会再分配任务。此操作无法在此撤销。",
    ),
    "withdraw_comments": ("Delete my comments as well", "同时删除我的评论"),
    "withdraw_button": ("Withdraw", "退出"),
    # Administration
    "admin_join_title": ("Administration", "管理"),
    "admin_join_text": (
        "This link gives administrator access to the study. Do not pass it on.",
        "此链接可进入本研究的管理页面，请勿转发。",
    ),
    "admin_join_button": ("Open the administration", "进入管理页面"),
    "admin_title": ("Administration", "管理"),
    "admin_paused": ("The study is paused: nobody gets tasks.", "研究已暂停：目前不分配任务。"),
    "admin_complete": (
        "The study was ended by the stop rule: nobody gets tasks.",
        "研究已按停止规则结束：不再分配任务。",
    ),
    "admin_running": ("The study is running.", "研究正在进行。"),
    "admin_pause": ("Pause the study", "暂停研究"),
    "admin_resume": ("Resume the study", "恢复研究"),
    "admin_progress": ("Progress", "进度"),
    "admin_items": ("Items", "条目"),
    "admin_items_done": ("Items done", "已完成条目"),
    "admin_votes": ("Votes", "投票数"),
    "admin_needed": ("Votes needed", "所需投票数"),
    "admin_open": ("Open leases", "进行中的任务"),
    "admin_rate": ("Votes per day", "每日投票数"),
    "admin_days_left": ("Days left at this rate", "按此速度剩余天数"),
    "admin_looks": ("Interim results viewed", "中期结果查看次数"),
    "admin_annotators": ("Annotators", "标注者"),
    "admin_no_annotators": ("No annotators yet. Create links below.", "还没有标注者，请在下方创建链接。"),
    "admin_pseudonym": ("Pseudonym", "化名"),
    "admin_state": ("State", "状态"),
    "admin_skips": ("Skips", "跳过"),
    "admin_minutes": ("Active minutes", "活动分钟数"),
    "admin_median": ("Median seconds", "中位秒数"),
    "admin_gold": ("Gold items right", "金标正确数"),
    "state_invited": ("invited", "已邀请"),
    "state_crowd": ("link for a crowd", "众包链接"),
    "state_active": ("active", "进行中"),
    "state_failed": ("test not passed", "未通过测试"),
    "state_expired": ("expired", "已过期"),
    "state_revoked": ("revoked", "已撤销"),
    "state_withdrawn": ("withdrawn", "已退出"),
    "state_forgotten": ("forgotten", "已删除"),
    "admin_code": ("Code", "完成码"),
    "admin_created": ("Created", "创建时间"),
    "admin_expires": ("Expires", "到期时间"),
    "admin_action": ("Action", "操作"),
    "admin_revoke": ("Revoke", "撤销"),
    "admin_revoke_confirm": ("End access", "确认撤销访问权限"),
    "admin_invite": ("Create links", "创建链接"),
    "admin_count": ("Number of links", "链接数量"),
    "admin_days": ("Valid for days (empty: no end)", "有效天数（留空为不限）"),
    "admin_links": ("New links", "新链接"),
    "admin_links_once": (
        "These links are shown once. Copy them now and give each to one person.",
        "这些链接只显示一次。请立即复制，并将每个链接只发给一个人。",
    ),
    "admin_export": ("Export", "导出"),
    "admin_export_text": (
        "Exports hold the votes and the pseudonyms of annotators, but no links.",
        "导出内容包含投票和化名，不包含链接。",
    ),
    # Errors of the administration, by status or by field
    "admin_error_401": (
        "Open the link that “rlalign feedback serve” prints.",
        "请打开“rlalign feedback serve”输出的链接。",
    ),
    "admin_error_404": (
        "The address is unknown, or the link is not valid. Open the link that “rlalign feedback serve” prints.",
        "地址不存在或链接无效。请打开“rlalign feedback serve”输出的链接。",
    ),
    "admin_error_422": ("A value of the form is wrong.", "表单中有错误的值。"),
    "admin_error_annotator": ("This annotator does not exist.", "该标注者不存在。"),
    "admin_error_count": ("Number of links: enter a number from 1 to 500.", "链接数量：请输入 1 到 500 之间的数字。"),
    "admin_error_days": (
        "Valid for days: enter a number from 1 to 3650, or leave the field empty.",
        "有效天数：请输入 1 到 3650 之间的数字，或留空。",
    ),
}
"""Key -> (English, Chinese). The two texts stand together so that no key can lack a translation."""

_BY_LANGUAGE: dict[str, Mapping[str, str]] = {
    language: MappingProxyType({key: texts[index] for key, texts in _TEXTS.items()})
    for index, language in enumerate(LANGUAGES)
}


def words(language: str) -> Mapping[str, str]:
    """Return the visible texts by key; raise KeyError for a language that is not in LANGUAGES."""
    return _BY_LANGUAGE[language]


def choose_language(header: str | None, allowed: Sequence[str]) -> str:
    """Return the language of `allowed` that an Accept-Language header prefers, else the first one.

    Regions and scripts are ignored: "zh-TW" selects "zh".

    Args:
        header: value of Accept-Language, or None. Parts that cannot be read are ignored.
        allowed: languages of the study, the default first; English if empty.
    """
    qualities: dict[str, float] = {}
    for part in (header or "").split(","):
        tag, _, parameters = part.partition(";")
        language = tag.strip().lower().split("-")[0]
        # The first entry of a language wins: "zh-CN, zh;q=0.5" asks for "zh" with quality 1.
        if language:
            qualities.setdefault(language, _quality(parameters))
    default = allowed[0] if allowed else LANGUAGES[0]
    best = max(allowed, key=lambda language: qualities.get(language, qualities.get("*", 0.0)), default=default)
    return best if qualities.get(best, qualities.get("*", 0.0)) > 0 else default


def _quality(parameters: str) -> float:
    """Return the quality of a part of Accept-Language, from 0 to 1; 1 if absent and 0 if unreadable."""
    name, _, value = parameters.partition("=")
    if name.strip().lower() != "q":
        return 1.0
    try:
        quality = float(value)
    except ValueError:
        return 0.0
    return quality if 0 <= quality <= 1 else 0.0
